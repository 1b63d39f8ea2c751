"""Leftovers: remove tensors that a look created from caches and other holders outside the model."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import _lru_cache_wrapper
from traceback import clear_frames, walk_tb
from types import CellType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgery.errors import CannotLook
from surgery.isolation.surroundings import ABSENT, CONTAINERS, Surroundings, attributes_of, drop, is_ours, put


@contextmanager
def no_leftovers(model: nn.Module, *, strict: bool = False) -> Iterator[AbstractContextManager[Any]]:
    """Inside, a copy of `model` is run and dropped; afterwards nothing refers to a tensor that it created.

    Enter the context manager that it yields around the run alone.

    A cache filled during a look would pass its tensors, on the meta device or computed from copied weights, to the
    model itself. Caches of `functools` are cleared; dicts, lists and sets lose the new entries; names of modules,
    classes and objects that the running code could see get their previous values back. With `strict`, a tensor that is
    kept in another way is an error; else it stays there.

    Raises:
        CannotLook: with `strict`, naming what keeps the tensors.
    """
    births = _Births(model)
    try:
        yield births
    except Exception as error:
        _clear_locals(error.__traceback__)
        raise
    finally:
        keepers = births.taken_back()
    if keepers and strict:
        raise CannotLook(
            f"A forward of {type(model).__name__} leaves tensors outside of the model, which it would read again.",
            asked="tensors in " + ", ".join(sorted(set(keepers))),
            try_="keep them in the model, in a dict or in functools.cache",
        )  # fmt: skip


def _clear_locals(trace: TracebackType | None) -> None:
    """Let the frames of an error that has come out of them forget their locals, and the arguments of module calls."""
    calls = [frame for frame, _ in walk_tb(trace) if frame.f_code is nn.Module._call_impl.__code__]
    cells = [part for frame in calls for part in gc.get_referents(frame) if isinstance(part, CellType)]
    clear_frames(trace)
    for cell in cells:  # the frame of a closure keeps the closure, and that keeps these
        with suppress(ValueError):  # an unassigned variable
            del cell.cell_contents
    for frame, _ in walk_tb(trace):
        _ = frame.f_locals  # before Python 3.13 a copy, which is updated on access


class _Births(TorchFunctionMode):
    """Records every tensor that is created, and the state of everything that the code around it can see."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._made: list[ref[Tensor]] = []
        self._before = Surroundings()
        for kind in {parent for module in model.modules() for parent in type(module).__mro__}:
            if not is_ours(kind.__module__):
                self._before.note_module(vars(sys.modules.get(kind.__module__, ModuleType(""))))
                self._before.note(kind)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, Tensor):
            if args and result is args[0]:
                return result  # not a new tensor
            self._made.append(ref(result))
        elif isinstance(result, tuple | list):
            self._made += [ref(value) for value in result if isinstance(value, Tensor)]
        self._before.note_code(sys._getframe(1))
        return result

    def taken_back(self) -> list[str]:
        """Remove the created tensors from their holders, and return the holders where that failed."""
        if self._alive():
            self._before.restore(set(map(id, self._alive())))
        for generation in (1, 2):  # the copy may be a reference cycle, and is young
            if self._alive():
                gc.collect(generation)
        kept = self._alive()
        return _Release(self._before, kept).done() if kept else []

    def _alive(self) -> list[Tensor]:
        return [value for made in self._made if (value := made()) is not None]


class _Release:
    """Removes tensors from their holders."""

    def __init__(self, before: Surroundings, kept: list[Tensor]) -> None:
        self.before, self.kept = before, kept
        self.ids = {id(value) for value in kept}
        self.asked: set[int] = set()
        self.known: dict[int, list[Any]] = {}  # id of an object -> its holders
        self.lists: list[Any] = [kept, *before.own()]  # our own references
        self.keepers: list[str] = []

    def done(self) -> list[str]:
        """Remove all of them, and return the holders where that failed."""
        self.lists.append(self.lists)
        self.look_for_holders(self.look_for_holders(self.kept))
        for value in self.kept:
            self.let_go(value)
        self.lists.clear()
        self.known.clear()
        return self.keepers

    def holders(self, value: Any) -> list[Any]:
        """The holders of a value, except ourselves and running code."""
        self.look_for_holders([value])
        return self.known[id(value)]

    def look_for_holders(self, values: list[Any]) -> list[Any]:
        """Find the holders of all these in one pass over all objects, and return the new ones."""
        new = [value for value in values if id(value) not in self.known]
        if not new:
            return new
        places: dict[int, list[Any]] = {id(value): [] for value in new}
        self.known |= places
        self.lists += [new, *places.values()]
        ours = set(map(id, self.lists))
        found = [
            holder for holder in gc.get_referrers(*new) if id(holder) not in ours and not isinstance(holder, FrameType)
        ]
        self.lists.append(found)
        for holder in found:
            for held in {id(value) for value in gc.get_referents(holder)} & places.keys():
                places[held].append(holder)
        return found

    def let_go(self, value: Any) -> None:
        """Remove a tensor, or its container, from its holders."""
        if id(value) in self.asked:
            return
        self.asked.add(id(value))
        for holder in self.holders(value):
            if isinstance(holder, _lru_cache_wrapper):
                holder.cache_clear()
            elif (owner := self.owner(holder)) is not None:
                self.restore(owner, value)
            elif isinstance(holder, CONTAINERS):
                if self.before.parts(holder) is not None or not self.came_with(holder):
                    self.remove(holder, value)
            elif isinstance(holder, tuple | frozenset):
                self.let_go(holder)
            else:
                self.keepers.append(_described(holder))

    def owner(self, holder: Any) -> Any:
        """The owner of a namespace: a module (the dict itself), a class or an object; None for a plain container."""
        if not isinstance(holder, dict):
            mere = isinstance(holder, (*CONTAINERS, tuple, frozenset, CellType))
            return None if mere or attributes_of(holder) is None else holder
        if "__name__" in holder and vars(sys.modules.get(str(holder["__name__"]), ModuleType(""))) is holder:
            return holder
        for referrer in self.holders(holder):
            if isinstance(referrer, type):
                if _is_of_class(holder, referrer):
                    return referrer
            elif not isinstance(referrer, (*CONTAINERS, tuple, CellType)) and attributes_of(referrer) is holder:
                return referrer
        return None

    def restore(self, owner: Any, value: Any) -> None:
        """Give the names of a module, a class or an object that refer to the value their previous values back."""
        before = self.before.parts(owner)
        if before is None and not isinstance(owner, FunctionType):
            if not isinstance(owner, dict | type) and self.came_with(owner):
                return
            self.keepers.append(_described(owner))
            return
        names = owner if isinstance(owner, dict) else attributes_of(owner)
        for name in _keys_of(names, value):
            put(owner, name, self.earlier(before or {}, name))

    def came_with(self, holder: Any) -> bool:
        """Remove the holder itself if it was created together with its content; True if so."""
        if isinstance(holder, CONTAINERS):
            parts = list(holder.values()) if isinstance(holder, dict) else list(holder)
            self.lists.append(parts)
            if not parts or not all(id(part) in self.ids for part in parts):
                return False
        for referrer in self.holders(holder):
            into = self.owner(referrer)
            into = referrer if into is None else into
            if isinstance(into, _lru_cache_wrapper | tuple) or self.before.parts(into) is not None:
                self.let_go(holder)
                return True
            if isinstance(holder, CONTAINERS) and into is referrer and isinstance(referrer, dict):
                self.let_go(holder)
                return True
        return False

    def remove(self, container: Any, value: Any) -> None:
        """Remove a value from a container; the value it replaced comes back."""
        before = self.before.parts(container)
        if isinstance(container, dict):
            for key in _keys_of(container, value):
                put(container, key, self.earlier(before or {}, key))
        else:
            self.lists.append(gone := [value])
            drop(container, gone)

    def earlier(self, before: dict[Any, Any], key: Any) -> Any:
        """The previous value of a key, unless that was created inside, too."""
        value = before.get(key, ABSENT)
        return ABSENT if id(value) in self.ids else value


def _is_of_class(names: dict[str, Any], kind: type) -> bool:
    """Whether this is the namespace of a class, which is exposed as a read-only view."""
    return all(vars(kind).get(name, names) is part for name, part in names.items())


def _keys_of(names: Any, value: Any) -> list[Any]:
    return [key for key, held in names.items() if held is value or key is value]


def _described(holder: Any) -> str:
    if isinstance(holder, dict):
        return f"the names of {holder.get('__name__', 'a module')}"
    if isinstance(holder, type):
        return f"the class {holder.__qualname__}"
    return "a variable of an enclosing function" if isinstance(holder, CellType) else f"a {type(holder).__name__}"
