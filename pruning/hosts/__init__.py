"""Hosts: adapters for other pruning libraries, which apply masks in each library's own way.

Masks that such a library holds are read in `pruning.masks.host_masks`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from pruning.hosts import nncf, torch_ao, torch_prune
from pruning.hosts.remasking import and_in
from pruning.masks.host_masks import host_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import owner_of

__all__ = ["commit", "nncf", "torch_ao", "torch_prune", "torch_pruning"]

if TYPE_CHECKING:
    from pruning.hosts import torch_pruning
else:

    def __getattr__(name: str) -> ModuleType:
        """Import the adapter of Torch-Pruning on first access: that library takes seconds to import."""
        if name == "torch_pruning":
            return import_module("pruning.hosts.torch_pruning")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def commit(model: nn.Module, masks: Masks) -> None:
    """Apply these masks to a model in place, through the library that holds each weight; no weight is revived.

    - A weight masked by `torch.nn.utils.prune` gets the intersection of its mask and this one, as a single pruning
      method. `weight_orig` keeps the values of unpruned weights.
    - For a weight masked by `torch.ao.pruning` or NNCF, the library's mask is intersected with this one. These
      libraries recompute their masks: commit AP's masks again after every step of theirs.
    - A plain weight is set to zero. It stays zero inside `masks.held(model, optimizer)`.

    Raises:
        CannotLook: the model is wrapped or scripted.
        WrongModel: the masks belong to another model.
        BadValue: a layer does not use such a weight directly, see `prunable`; or `torch.nn.utils.prune` masks one that
            its masks do not reach, see `torch_prune.cut`. Nothing has changed.
    """
    pairs = masks.pairs(model)
    if not pairs:
        return
    torch_prune.check_reached(model, [name for name in masks if torch_prune.is_under(*owner_of(model, name))])
    reached = host_masks(model)
    for (param, mask), name in zip(pairs, masks, strict=True):
        module, own = owner_of(model, name)
        if torch_prune.is_under(module, own):
            torch_prune.lay(module, own, mask)
        else:
            and_in(reached.get(name, param), mask)
