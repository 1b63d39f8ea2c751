"""Surroundings: the namespaces and containers around running code, recorded to be restored."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from types import FrameType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any

from torch import Tensor, nn

CONTAINERS = (dict, list, set, deque)
ABSENT = object()
_OURS = ("torch", "surgery", "pruning", "builtins")  # these drop what they keep of a look themselves
_DEPTH = 4


class Surroundings:
    """The state of namespaces, and of the containers in them, when first encountered."""

    def __init__(self) -> None:
        self._stood: dict[
            int, tuple[Any, Any]
        ] = {}  # by id: the object, kept alive so that its id stays unique, and its parts
        self._ours: dict[int, Any] = {}  # globals of our own

    def note_code(self, frame: FrameType | None) -> None:
        """Record the module whose code runs, the innermost one outside torch."""
        while frame is not None:
            names = frame.f_globals
            if id(names) in self._stood:
                return
            if id(names) not in self._ours:
                if not is_ours(names.get("__name__")):
                    return self.note_module(names)
                self._ours[id(names)] = names
            frame = frame.f_back

    def note_module(self, names: dict[str, Any]) -> None:
        """Record the names of a module, and the content of the containers and objects there."""
        if id(names) not in self._stood:
            self._stood[id(names)] = names, dict(names)
            for value in [value for name, value in list(names.items()) if not name.startswith("__")]:
                elsewhere = isinstance(value, type | FunctionType) and value.__module__ != names.get("__name__")
                if not elsewhere and not isinstance(value, ModuleType | nn.Module | Tensor):
                    self.note(value)

    def note(self, value: Any) -> None:
        """Record the parts of a container, or the attributes of a class or an object and the containers in them."""
        if id(value) in self._stood:
            return
        if isinstance(value, CONTAINERS):
            self._stood[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
        elif (attributes := attributes_of(value)) is not None:
            self._stood[id(value)] = value, dict(attributes)
            for attribute in list(attributes.values()):
                if isinstance(attribute, CONTAINERS):
                    self.note(attribute)

    def restore(self, ids: set[int]) -> None:
        """Restore what was recorded, where it has come to hold one of these; clear the caches that do."""
        for owner, before in list(self._stood.values()):
            if isinstance(owner, list | deque | set):
                old = set(map(id, before))
                new = [part for part in owner if id(part) not in old and _holds(part, ids)]
                if new:
                    drop(owner, new)
                continue
            for name, value in list((owner if isinstance(owner, dict) else attributes_of(owner)).items()):
                for cache in (caches := _caches_of(value)):
                    if _holds(cache, ids):
                        cache.cache_clear()
                if not caches and before.get(name, ABSENT) is not value and _holds(value, ids):
                    put(owner, name, before.get(name, ABSENT))

    def own(self) -> Iterator[Any]:
        """All of this object's own references."""
        yield from (self._stood, self._ours)
        for record in self._stood.values():
            yield from (record, record[1])

    def parts(self, value: Any) -> Any:
        """Its previous parts; None if it was not recorded."""
        record = self._stood.get(id(value))
        return record[1] if record is not None and record[0] is value else None


def attributes_of(owner: Any) -> Any:
    """The attribute dict of an object, read without running its code; None if it has none."""
    for kind in type(owner).__mro__:
        slot = vars(kind).get("__dict__")
        if slot is not None:
            return slot.__get__(owner) if isinstance(slot, GetSetDescriptorType) else None
    return None


def put(owner: Any, name: Any, value: Any) -> None:
    """Set an attribute of a class or an object, or a key of a dict; delete it for `ABSENT`."""
    if isinstance(owner, dict) and value is ABSENT:
        del owner[name]
    elif isinstance(owner, dict):
        owner[name] = value
    elif value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def drop(container: Any, values: list[Any]) -> None:
    """Remove these from a list, a queue or a set."""
    if isinstance(container, set):
        container.difference_update(values)
        return
    gone = set(map(id, values))
    rest = [part for part in container if id(part) not in gone]
    container.clear()
    container.extend(rest)


def _holds(value: Any, ids: set[int], depth: int = _DEPTH) -> bool:
    """Whether it is one of these, or holds one, in nested containers, objects and caches."""
    if id(value) in ids:
        return True
    if not depth or isinstance(value, ModuleType | FunctionType | type | nn.Module | Tensor):
        return False
    if isinstance(value, (*CONTAINERS, tuple, frozenset, _lru_cache_wrapper)):
        return any(_holds(part, ids, depth - 1) for part in gc.get_referents(value))
    attributes = attributes_of(value)
    return attributes is not None and any(_holds(part, ids, depth - 1) for part in list(attributes.values()))


def _caches_of(function: Any) -> list[_lru_cache_wrapper[Any]]:
    """The cache that this function or method is, or those that its decorators keep in their closures."""
    function = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    if isinstance(function, _lru_cache_wrapper):
        return [function]
    cells = (function.__closure__ or ()) if isinstance(function, FunctionType) else ()
    return [held for cell in cells for held in gc.get_referents(cell) if isinstance(held, _lru_cache_wrapper)]


def is_ours(name: Any) -> bool:
    """Whether a module of this name belongs to this library or to torch."""
    return str(name).partition(".")[0] in _OURS
