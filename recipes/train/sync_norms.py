"""Synchronised batch norms: statistics over all processes, proved to compute the same as before."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recipes.optional import check_torchvision
from surgery.errors import CannotEdit, NotProved

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DIMS = (4, 2, 5)  # of the inputs of batch norms
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def synchronised(model: nn.Module) -> nn.Module:
    """Convert the batch norms of a model to synchronised ones with the same weights; the model itself is consumed.

    timm does the conversion, because torch's drops the activation that some norms contain. Each norm is then compared
    with the original one, on random numbers, in eval mode.

    Raises:
        CannotEdit: a norm cannot be converted; the message names it.
        NotProved: a norm computes something else afterwards; the message names it.
    """
    check_synchronisable(model)
    from timm.layers.norm_act import convert_sync_batchnorm

    before = dict(_norms(model))
    made: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    after = dict(made.named_modules(remove_duplicate=False))
    for path, norm in before.items():
        if not _same(norm, after[path]):
            raise NotProved(
                f"{path} computes something else when synchronised.",
                asked=f"{type(norm).__name__}, then {type(after[path]).__name__}", try_="sync_bn=False",
            )  # fmt: skip
    return made


def check_synchronisable(model: nn.Module) -> None:
    """Check that no batch norm has hooks or a forward of its own, which a synchronised norm would not have.

    Raises:
        CannotEdit: one does; the message names it.
    """
    check_torchvision()
    from timm.layers.norm_act import BatchNormAct2d

    known = {kind.forward for kind in (*_NORMS, BatchNormAct2d)}
    for path, norm in _norms(model):
        if type(norm).forward not in known or "forward" in vars(norm):
            raise CannotEdit(
                f"{path} does more than a batch norm, which would be lost in a norm over all processes.",
                asked=f"{type(norm).__name__} with its own forward", try_="sync_bn=False",
            )  # fmt: skip
        if any(getattr(norm, hooks) for hooks in _HOOKS):
            raise CannotEdit(
                f"{path} has hooks, which would be lost in a norm over all processes.",
                asked=type(norm).__name__, try_="sync_bn=False, or without the hooks",
            )  # fmt: skip


def _norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm):
            yield path, module


@torch.no_grad()
def _same(before: nn.Module, after: nn.Module) -> bool:
    """Whether the outputs of both are equal, with default scales: trained ones may hide an activation."""
    first, second = _normalising(before), _normalising(after)
    images = _images(first)
    return torch.equal(first(images.clone()), second(images.clone()))


def _normalising(norm: nn.Module) -> nn.Module:
    made = copy.deepcopy(norm).eval()
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        if isinstance(tensor := getattr(made, name, None), Tensor):
            tensor.fill_(value)
    return made


def _images(norm: nn.Module) -> Tensor:
    """Random numbers with as many axes as the norm accepts."""
    like = next(iter(norm.state_dict().values()), torch.zeros(()))
    draws = torch.Generator().manual_seed(0)
    for dims in _DIMS:
        shape = (2, int(norm.num_features), *[4] * (dims - 2))  # type: ignore[arg-type]
        images = torch.randn(shape, generator=draws).to(like.device, like.dtype)
        try:
            norm(images.clone())
        except (ValueError, AssertionError, RuntimeError):
            continue
        return images
    raise NotProved("A batch norm does not run on random input.", asked=str(norm), try_="sync_bn=False")
