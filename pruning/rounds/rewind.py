"""Rewind: the state to reset a model to, copied and never shared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from surgery.errors import BadValue, WrongModel
from surgery.tensors import Tensors

Rewind = Literal["init"] | Tensors | None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first name; including non-persistent buffers."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


@torch.no_grad()
def put_into(model: nn.Module, tensors: Tensors) -> None:
    """Copy tensors into those of the same name in the model, in place; the others stay."""
    for name, own in tensors_of(model).items():
        if name in tensors:
            own.copy_(tensors[name])


def layout_of(model: nn.Module) -> dict[str, str]:
    """Shape and dtype of every tensor of a model, as text."""
    return {name: f"{list(tensor.shape)} {tensor.dtype}" for name, tensor in tensors_of(model).items()}


def digest_of(tensors: Tensors) -> str:
    """A digest of names, shapes and values, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_to_rewind(model: nn.Module, rewind: Rewind) -> dict[str, Tensor] | None:
    """A copy of the state to rewind to, by the names of `tensors_of`: of the current model, a state dict, or None.

    Raises:
        WrongModel: a tensor of the model is missing in the state dict, there is an extra one, or a shape differs.
        BadValue: a parameter in it is not finite.
    """
    if rewind is None:
        return None
    if not isinstance(rewind, Mapping):
        return {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    names, found = _names_of(model), {}
    known = {alias for aliases in names.values() for alias in aliases}
    strange = sorted(name for name, value in rewind.items() if isinstance(value, Tensor) and name not in known)
    if strange:
        raise WrongModel(f"The state to rewind to has {strange[0]}, which the model does not have.", try_=_OWN)
    required = {*model.state_dict(), *(name for name, _ in model.named_parameters())}
    for first, own in tensors_of(model).items():
        name = next((alias for alias in names[first] if alias in rewind), None)
        if name is not None:
            found[first] = _fitting(name, rewind[name], own)
        elif required.intersection(names[first]):
            raise WrongModel(f"The state to rewind to lacks {first}.", asked=f"{len(rewind)} other names", try_=_OWN)
    _check_finite(model, found)
    return found


_OWN = "the state dict of this model"


def _names_of(model: nn.Module) -> dict[str, list[str]]:
    """All names of each tensor of a model, by the first of them."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def _fitting(name: str, value: object, own: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != own.shape:
        there = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        raise WrongModel(
            f"In the state to rewind to, {name} does not fit.", asked=there, there=str(tuple(own.shape)), try_=_OWN
        )
    return value.detach().to(own, copy=True)


def _check_finite(model: nn.Module, state: Tensors) -> None:
    for name, _ in model.named_parameters():
        if not bool(state[name].isfinite().all()):
            raise BadValue(f"In the state to rewind to, {name} has values that are not finite.", try_=_OWN)
