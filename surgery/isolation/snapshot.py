"""Snapshot: the state of a model that an operation may write to, for a rollback."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from torch import Tensor, nn

from surgery.history.history import History, Step, histories_of
from surgery.model import HISTORY

_COPIES: dict[type, type] = {dict: dict, OrderedDict: dict, list: list, set: set}  # copying an OrderedDict is slow


@dataclass(frozen=True, slots=True, eq=False)
class ModuleBefore:
    """A module, its class, its attributes, and the content of its dicts, lists and sets."""

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    held: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TensorBefore:
    """A tensor, its `requires_grad`, its gradient, and its values if they may be written."""

    tensor: Tensor
    learns: bool
    grad: Tensor | None
    version: int
    numbers: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state of a model. Tensors are kept by reference; values are copied where they may be written."""

    modules: list[ModuleBefore]
    tensors: list[TensorBefore]
    histories: list[tuple[History, History]]
    steps: list[tuple[Step, Step]]


def snapshot(model: nn.Module, written: Iterable[Tensor] = (), *, progress_only: bool = False) -> Snapshot:
    """The current state of a model. Values are copied for the tensors to be `written`, and for modules that fade.

    `progress_only`: only what `set_progress` changes, cheap enough for every training step.
    """
    everything = dict.fromkeys(model.modules() if progress_only else _reached(model))
    moving = dict.fromkeys(part for module in everything if _moves(module) for part in module.modules())
    homes = dict.fromkeys((model, *(module for module in everything if HISTORY in vars(module))))
    kept = {id(value) for value in written} | {id(value) for part in moving for value in _tensors(part)}
    modules = homes | moving if progress_only else everything
    parameters = (value for module in everything for value in module._parameters.values() if _is_made(value))
    tensors = {id(value): value for module in modules for value in _tensors(module)}
    tensors |= {id(value): value for value in parameters}
    histories = histories_of(model)
    steps = [] if progress_only else [step for history in histories for step in history.steps]
    return Snapshot(
        [_module(module) for module in modules],
        [_tensor(value, id(value) in kept) for value in tensors.values()],
        [
            (history, replace(history, steps=list(history.steps), resting=list(history.resting)))
            for history in histories
        ],
        [(step, replace(step, data=copy.deepcopy(step.data), changes=list(step.changes))) for step in steps],
    )


def _reached(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model, and those that undo would restore."""
    yield from model.modules()
    for history in histories_of(model):
        for change in (change for step in history.steps for change in step.changes):
            if isinstance(change.before, nn.Module):
                yield from change.before.modules()


def _moves(module: nn.Module) -> bool:
    kind = type(module)
    return hasattr(kind, "set_progress") or hasattr(kind, "finish")


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    named = (*module._parameters.values(), *module._buffers.values())
    return (tensor for tensor in named if _is_made(tensor))


def _is_made(tensor: Tensor | None) -> TypeGuard[Tensor]:
    """True for a tensor, except a lazy one (`nn.LazyLinear`), which has no shape yet."""
    return tensor is not None and not nn.parameter.is_lazy(tensor)


def _module(module: nn.Module) -> ModuleBefore:
    attributes = dict(vars(module))
    held = {name: _COPIES[type(value)](value) for name, value in attributes.items() if type(value) in _COPIES}
    return ModuleBefore(module, type(module), attributes, held)


def _tensor(tensor: Tensor, kept: bool) -> TensorBefore:
    version = 0 if tensor.is_inference() else tensor._version
    numbers = tensor.detach().clone() if kept else None
    return TensorBefore(tensor, tensor.requires_grad, tensor.grad if tensor.is_leaf else None, version, numbers)
