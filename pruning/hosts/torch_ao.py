"""torch.ao.pruning: AP combined with a sparsifier, which recomputes its masks at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruning.ap.ap import Among, By, Choice
from pruning.hosts.remasking import own_cut
from pruning.masks.host_masks import host_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import Filter, owner_of


def cut(
    model: nn.Module,
    before: Mapping[str, Tensor],
    count: int,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    keep: Filter | None = None,
) -> Masks:
    """Let AP cut exactly `count` more of the weights that a sparsifier has prepared; return AP's masks.

    These are False only for the weights that AP cut. A sparsifier recomputes its masks: commit AP's again after each
    of its steps, and combine them over the rounds with `&`. `before` is `pruning.snapshot(model)` from when the
    round began; `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

    Example::

        mine = torch_ao.cut(model, before, count=100)
        for epoch in ...:
            train(model)
            sparsifier.step()
            hosts.commit(model, mine)
        sparsifier.squash_mask()
        with mine.held(model, optimizer): ...           # from here on the weights are plain

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: no sparsifier has prepared any of these weights.
        WrongModel: the snapshot belongs to another model.
        BadValue: an unknown word; `count` is negative, or more than AP may cut; an unpruned weight is not finite, or
            has another parametrisation besides the sparsifier. Nothing has changed.
    """
    return own_cut(model, before, masks_of(model), count, Choice(among, by, batches, seed), keep)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of sparsifiers (not copies), by the names of `prunable`; empty for a model that is not prepared."""
    return {name: mask for name, mask in host_masks(model).items() if _is_under(*owner_of(model, name))}


def _is_under(module: nn.Module, own: str) -> bool:
    if not parametrize.is_parametrized(module, own):
        return False
    return any(type(part).__name__ == "FakeSparsity" for part in module.parametrizations[own])  # type: ignore[index]
