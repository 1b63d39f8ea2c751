"""Likeness: everything by which code can distinguish two modules, except the values of their tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from surgery.isolation.meta_copy import computes_weights
from surgery.model import HISTORY, HOOKS

_PLAIN = (
    type(None), bool, int, str, bytes, slice, range, type(...), torch.dtype, torch.device, torch.layout,
    torch.memory_format,
)  # fmt: skip
_NUMBERS = (float, complex)  # compared by repr: NaN equals NaN, 0.0 differs from -0.0
_NESTS = (dict, OrderedDict, list, tuple, set, frozenset, torch.Size)


@dataclass(frozen=True, slots=True, eq=False)
class Same:
    """An object that equals only itself; it is kept alive, so that its id stays unique."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def likeness(value: Any) -> Hashable:
    """A key that is equal for two values that the same code treats alike, whatever the values of their tensors.

    For a module: its class, its attributes, the number of its hooks, its children, the shapes and dtypes of its
    tensors, and which of all these are the same object. Functions and unknown objects equal only themselves, and so
    does a tensor that no module holds.
    """
    return _Likeness().of(value)


def shaped(value: Tensor) -> Hashable:
    """The likeness of a tensor without its values."""
    strides = value.stride() if value.layout is torch.strided else ()
    return (type(value), tuple(value.shape), strides, value.dtype, value.device, value.layout, value.requires_grad)


def can_be_given_again(value: Any) -> bool:
    """True for arguments that contain only tensors, plain data and stateless functions.

    Anything else, such as a module, an optimiser or a cache, may belong to the model, which a copy of it would not.
    """
    if isinstance(value, FunctionType):
        return value.__closure__ is None
    if type(value) in (*_PLAIN, *_NUMBERS) or isinstance(value, Tensor | type | BuiltinFunctionType):
        return True
    if type(value) in (dict, OrderedDict):
        return all(can_be_given_again(part) for pair in value.items() for part in pair)
    if type(value) in _NESTS or hasattr(value, "_fields"):
        return all(map(can_be_given_again, value))
    return _is_record(value) and all(can_be_given_again(getattr(value, field.name)) for field in fields(value))


def _written(hook: object) -> Hashable:
    """The likeness of a hook that may run: its code, if it is a plain function."""
    return hook.__code__ if isinstance(hook, FunctionType) and not hook.__closure__ else Same(hook)


def _is_record(value: Any) -> bool:
    """True for an object of a dataclass without state besides its fields."""
    if isinstance(value, type) or not all(map(is_dataclass, type(value).__mro__[:-1])):
        return False
    return set(getattr(value, "__dict__", ())) <= {field.name for field in fields(value)}


class _Likeness:
    """One traversal: an object that occurs again is represented by its number."""

    def __init__(self) -> None:
        self.met: dict[int, int] = {}

    def of(self, value: Any) -> Hashable:
        kind = type(value)
        if kind in _PLAIN:
            return (kind, str(value) if kind in (slice, range) else value)
        if kind in _NUMBERS:
            return (kind, repr(value))
        if kind in (tuple, torch.Size) or (isinstance(value, tuple) and hasattr(value, "_fields")):
            return (kind, *map(self.of, value))
        return self._again(value) or self._of_object(value)

    def _again(self, value: Any) -> Hashable:
        if id(value) in self.met:
            return ("again", self.met[id(value)])
        self.met[id(value)] = len(self.met)
        return None

    def _of_object(self, value: Any) -> Hashable:
        kind = type(value)
        if isinstance(value, nn.Module):
            held = ((name, self._held(name, part)) for name, part in vars(value).items() if name != HISTORY)
            return (kind, *held)
        if kind in (dict, OrderedDict):
            return (kind, *((self.of(key), self.of(part)) for key, part in value.items()))
        if kind is list:
            return (kind, *map(self.of, value))
        if kind in (set, frozenset):
            return (kind, len(value), frozenset(map(self.of, value)))
        if isinstance(value, partial):
            return (kind, self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, MethodType):
            return (kind, Same(value.__func__), self.of(value.__self__))
        if _is_record(value):
            return (kind, *(self.of(getattr(value, field.name)) for field in fields(value)))
        return Same(value)

    def _held(self, name: str, value: Any) -> Hashable:
        """An attribute of a module. Tensors that a meta copy has without values are represented by their shape."""
        if name in HOOKS and isinstance(value, dict):
            hooks = value.values()
            return tuple(
                (type(hook), self.of(vars(hook))) if computes_weights(hook) else _written(hook) for hook in hooks
            )
        if isinstance(value, Tensor):
            return self._again(value) or shaped(value)
        if type(value) in (dict, OrderedDict):
            return tuple((self.of(key), self._part(part)) for key, part in value.items())
        if type(value) in (list, tuple):
            return (type(value), *map(self._part, value))
        return self.of(value)

    def _part(self, value: Any) -> Hashable:
        return (self._again(value) or shaped(value)) if isinstance(value, Tensor) else self.of(value)
