"""Surroundings: what the names and containers round running code stood for, to be put back."""

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
_OURS = ("torch", "surgery", "pruning", "builtins")  # what these keep of a look, they know how to drop
_DEPTH = 4


class Surroundings:
    """How namespaces, and the containers in them, stood when they were first seen."""

    def __init__(self) -> None:
        self._stood: dict[int, tuple[Any, Any]] = {}  # by id: an object, so that none gets its id; its parts
        self._ours: dict[int, Any] = {}  # globals that are nobody else's

    def note_code(self, frame: FrameType | None) -> None:
        """Note the module whose code runs, the innermost one that is not torch's."""
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
        """Note what the names of a module stand for, and what stands in the containers and objects there."""
        if id(names) not in self._stood:
            self._stood[id(names)] = names, dict(names)
            for value in [one for name, one in list(names.items()) if not name.startswith("__")]:
                elsewhere = isinstance(value, type | FunctionType) and value.__module__ != names.get("__name__")
                if not elsewhere and not isinstance(value, ModuleType | nn.Module | Tensor):
                    self.note(value)

    def note(self, value: Any) -> None:
        """Note the parts of a container, or the attributes of a class or an object and the containers in them."""
        if id(value) in self._stood:
            return
        if isinstance(value, CONTAINERS):
            self._stood[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
        elif (attributes := attributes_of(value)) is not None:
            self._stood[id(value)] = value, dict(attributes)
            for one in list(attributes.values()):
                if isinstance(one, CONTAINERS):
                    self.note(one)

    def restore(self, ids: set[int]) -> None:
        """Let all that was noted be what it was, where it has come to hold one of these; clear the caches that do."""
        for owner, before in list(self._stood.values()):
            if isinstance(owner, list | deque | set):
                old = set(map(id, before))
                new = [one for one in owner if id(one) not in old and _holds(one, ids)]
                if new:
                    drop(owner, new)
                continue
            for name, one in list((owner if isinstance(owner, dict) else attributes_of(owner)).items()):
                function = one.__func__ if isinstance(one, staticmethod | classmethod) else one
                if isinstance(function, _lru_cache_wrapper):
                    if _holds(function, ids):
                        function.cache_clear()
                elif before.get(name, ABSENT) is not one and _holds(one, ids):
                    put(owner, name, before.get(name, ABSENT))

    def own(self) -> Iterator[Any]:
        """All that holds something for this."""
        yield from (self._stood, self._ours)
        for noted in self._stood.values():
            yield from (noted, noted[1])

    def parts(self, value: Any) -> Any:
        """What stood in it before, None if it was not seen."""
        noted = self._stood.get(id(value))
        return noted[1] if noted is not None and noted[0] is value else None


def attributes_of(owner: Any) -> Any:
    """The attributes of an object as it keeps them, found without running its code; None if it keeps none."""
    for kind in type(owner).__mro__:
        slot = vars(kind).get("__dict__")
        if slot is not None:
            return slot.__get__(owner) if isinstance(slot, GetSetDescriptorType) else None
    return None


def put(owner: Any, name: Any, value: Any) -> None:
    """Let a name of a class or an object, or a key of a dict, stand for this; nothing for `ABSENT`."""
    if isinstance(owner, dict) and value is ABSENT:
        del owner[name]
    elif isinstance(owner, dict):
        owner[name] = value
    elif value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def drop(container: Any, values: list[Any]) -> None:
    """Take these out of a list, a queue or a set."""
    if isinstance(container, set):
        container.difference_update(values)
        return
    gone = set(map(id, values))
    rest = [one for one in container if id(one) not in gone]
    container.clear()
    container.extend(rest)


def _holds(value: Any, ids: set[int], depth: int = _DEPTH) -> bool:
    """Whether it is one of these, or holds one, in containers, objects and caches in it."""
    if id(value) in ids:
        return True
    if not depth or isinstance(value, ModuleType | FunctionType | type | nn.Module | Tensor):
        return False
    if isinstance(value, (*CONTAINERS, tuple, frozenset, _lru_cache_wrapper)):
        return any(_holds(one, ids, depth - 1) for one in gc.get_referents(value))
    attributes = attributes_of(value)
    return attributes is not None and any(_holds(one, ids, depth - 1) for one in list(attributes.values()))


def is_ours(name: Any) -> bool:
    """Whether a module of this name is one of ours, or of torch."""
    return str(name).partition(".")[0] in _OURS
