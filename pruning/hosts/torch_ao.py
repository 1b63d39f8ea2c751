"""torch.ao.pruning: AP combined with a sparsifier, which recomputes its masks at every step.

Example::

    mine = torch_ao.cut(model, before, count=100)
    for epoch in ...:
        train(model)
        sparsifier.step()
        hosts.commit(model, mine)
    sparsifier.squash_mask()
    with mine.held(model, optimizer): ...           # from here on the weights are plain
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruning.hosts.remasking import RemaskingHost
from pruning.masks.host_masks import host_masks
from pruning.masks.prunable import owner_of

__all__ = ["cut"]


def sparsifier_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of sparsifiers (not copies), by the names of `prunable`; empty for a model that is not prepared."""
    return {name: mask for name, mask in host_masks(model).items() if _is_sparsified(*owner_of(model, name))}


def _is_sparsified(module: nn.Module, own: str) -> bool:
    if not parametrize.is_parametrized(module, own):
        return False
    return any(type(part).__name__ == "FakeSparsity" for part in module.parametrizations[own])  # type: ignore[index]


cut = RemaskingHost(sparsifier_masks).cut
