"""Held tensors: those that modules, running code and containers refer to, found without running any code."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from functools import _lru_cache_wrapper
from itertools import islice
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from surgery.isolation.surroundings import attributes_of, is_ours

_DEPTH = 4  # how deep nested containers are searched
_OF_MENTIONED = 4096  # objects searched behind a name that running code uses
_OF_OTHERS = 64  # behind each other name of its module, which code that has returned may have read
_PLAIN = (bool, int, float, str, type(None))  # the usual attributes that are not containers
_SEQUENCES = (list, tuple, set, frozenset, deque)


def reachable_tensors(value: Any, most: int | None = None) -> Iterator[Tensor]:
    """The tensors that a value refers to: in containers, caches, and attributes of objects other than modules and code.

    At most `most` objects are searched. A mapping that is not a dict is skipped: reading it may read files.
    """
    left, looked = [(value, _DEPTH)], 0
    while left and (most is None or looked < most):
        item, depth = left.pop()
        looked += 1
        if issubclass(type(item), Tensor):
            yield item
        elif depth:
            left.extend((part, depth - 1) for part in reversed(_parts(item, most)))


def held_by_modules(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """The tensors that modules and their classes hold besides parameters and buffers."""
    inside = ("_parameters", "_buffers", "_modules")
    modules = list(modules)
    classes = dict.fromkeys(kind for module in modules for kind in type(module).__mro__ if not is_ours(kind.__module__))
    own = [(name, value) for module in modules for name, value in vars(module).items() if name not in inside]
    values = [value for name, value in own if "hook" not in name]
    for value in (*values, *(value for kind in classes for value in vars(kind).values())):
        value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(value, FunctionType):
            for cell in value.__closure__ or ():  # the cache of a decorator may be there
                yield from reachable_tensors(_content(cell), _OF_MENTIONED)
        elif type(value) not in _PLAIN:
            yield from reachable_tensors(value, _OF_MENTIONED)


def held_by_code(frame: FrameType | None, read: dict[int, Any]) -> Iterator[Tensor]:
    """The tensors in the globals and closures of the running functions, and of those they refer to by name.

    Objects in `read`, by id, were searched before and are skipped; newly searched ones are added.
    """
    while frame is not None:
        names, code = frame.f_globals, frame.f_code
        if not is_ours(names.get("__name__")):
            known = [names[name] for name in code.co_names if name in names] if _is_new(code, read) else []
            closed = [frame.f_locals[name] for name in code.co_freevars if name in frame.f_locals]
            for value in known + closed:
                if _is_new(value, read):
                    yield from reachable_tensors(value, _OF_MENTIONED)
            if _is_new(names, read):
                yield from _held_by_names(names)
                yield from _held_by_named(names, read)
        frame = frame.f_back


def _held_by_names(names: dict[str, Any]) -> Iterator[Tensor]:
    for value in list(names.values()):
        yield from reachable_tensors(value, _OF_OTHERS)


def _held_by_named(names: dict[str, Any], read: dict[int, Any]) -> Iterator[Tensor]:
    """The tensors that classes and functions of these names hold, and the modules of the functions."""
    for value in list(names.values()):
        if issubclass(type(value), type | FunctionType) and not is_ours(value.__module__):
            yield from _held_by_names(dict(vars(value)))
            others = getattr(value, "__globals__", names)
            if _is_new(others, read):
                yield from _held_by_names(others)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an unassigned variable
        return None


def _is_new(value: Any, read: dict[int, Any]) -> bool:
    """True the first time; the value is kept alive, so that its id stays unique."""
    new = id(value) not in read
    read[id(value)] = value
    return new


def _parts(value: Any, most: int | None) -> list[Any]:
    """The first `most` elements of a container or an object, read with the methods of the built-in types."""
    kind = type(value)
    if issubclass(kind, dict):
        return list(islice(dict.values(value), most))
    for base in _SEQUENCES:
        if issubclass(kind, base):
            return list(islice(base.__iter__(value), most))
    if kind is _lru_cache_wrapper:
        return gc.get_referents(value)[:most]
    if issubclass(kind, type | ModuleType | FunctionType | nn.Module):
        return []
    held = attributes_of(value)
    return list(islice(held.values(), most)) if type(held) is dict else []
