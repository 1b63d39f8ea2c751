"""Leftovers: what a look made and somebody outside the model keeps, such as a cache, is taken away from them again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import _lru_cache_wrapper
from traceback import clear_frames
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgery.errors import CannotLook
from surgery.isolation.surroundings import ABSENT, CONTAINERS, Surroundings, attributes_of, drop, is_ours, put


@contextmanager
def nothing_left(model: nn.Module, *, strict: bool = False) -> Iterator[AbstractContextManager[Any]]:
    """Inside, a twin of `model` is run and dropped; afterwards nobody keeps a tensor that it made.

    What is handed on is to be entered round the run alone.

    A cache that a look has filled would hand its tensors, of the meta device or of weights that are not the model's,
    to the model itself. Caches of `functools` are cleared; dicts, lists and sets lose what came in; names of modules,
    classes and objects that the running code could see get back what they stood for. With `strict`, whoever keeps a
    tensor in another way is an error; else it is left to them.

    Raises:
        CannotLook: with `strict`, naming who keeps what was made.
    """
    births = _Births(model)
    try:
        yield births
    except Exception as error:
        clear_frames(error.__traceback__)  # their locals
        raise
    finally:
        keepers = births.taken_back()
    if keepers and strict:
        raise CannotLook(
            f"A forward of {type(model).__name__} leaves tensors outside of the model, which it would meet again.",
            there=", ".join(sorted(set(keepers))), try_="keep them in the model, in a dict or in functools.cache",
        )  # fmt: skip


class _Births(TorchFunctionMode):
    """Notes every tensor that is made, and how all that the code around it can see stood before."""

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
                return result  # nothing was made
            self._made.append(ref(result))
        elif isinstance(result, tuple | list):
            self._made += [ref(one) for one in result if isinstance(one, Tensor)]
        self._before.note_code(sys._getframe(1))
        return result

    def taken_back(self) -> list[str]:
        """Take what was made away from those who keep it, and return who could not let go."""
        if self._alive():
            self._before.restore(set(map(id, self._alive())))
        for generation in (1, 2):  # a twin may be a circle, and is young
            if self._alive():
                gc.collect(generation)
        kept = self._alive()
        return _Release(self._before, kept).done() if kept else []

    def _alive(self) -> list[Tensor]:
        return [value for one in self._made if (value := one()) is not None]


class _Release:
    """Takes tensors away from whoever holds them."""

    def __init__(self, before: Surroundings, kept: list[Tensor]) -> None:
        self.before, self.kept = before, kept
        self.ids = {id(one) for one in kept}
        self.asked: set[int] = set()
        self.known: dict[int, list[Any]] = {}  # holders, by the id of what they hold
        self.lists: list[Any] = [kept, *before.own()]  # what holds them for us
        self.keepers: list[str] = []

    def done(self) -> list[str]:
        """Take all of them away, and return who could not let go."""
        self.lists.append(self.lists)
        self.look_for_holders(self.look_for_holders(self.kept))
        for value in self.kept:
            self.let_go(value)
        self.lists.clear()
        self.known.clear()
        return self.keepers

    def holders(self, value: Any) -> list[Any]:
        """Who holds it, but for ourselves and for running code."""
        self.look_for_holders([value])
        return self.known[id(value)]

    def look_for_holders(self, values: list[Any]) -> list[Any]:
        """Find the holders of all these in one pass over everything there is, and return those that are new."""
        new = [one for one in values if id(one) not in self.known]
        if not new:
            return new
        places: dict[int, list[Any]] = {id(one): [] for one in new}
        self.known |= places
        self.lists += [new, *places.values()]
        ours = set(map(id, self.lists))
        found = [one for one in gc.get_referrers(*new) if id(one) not in ours and not isinstance(one, FrameType)]
        self.lists.append(found)
        for holder in found:
            for held in {id(one) for one in gc.get_referents(holder)} & places.keys():
                places[held].append(holder)
        return found

    def let_go(self, value: Any) -> None:
        """Take a tensor, or what it stands in, away from its holders."""
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
                self.keepers.append(_said(holder))

    def owner(self, holder: Any) -> Any:
        """Whose names a holder is: of a module (the dict itself), a class or an object; None for a mere container."""
        if not isinstance(holder, dict):
            mere = isinstance(holder, (*CONTAINERS, tuple, frozenset, CellType))
            return None if mere or attributes_of(holder) is None else holder
        if "__name__" in holder and vars(sys.modules.get(str(holder["__name__"]), ModuleType(""))) is holder:
            return holder
        for one in self.holders(holder):
            if isinstance(one, type):
                if _is_of_class(holder, one):
                    return one
            elif not isinstance(one, (*CONTAINERS, tuple, CellType)) and attributes_of(one) is holder:
                return one
        return None

    def restore(self, owner: Any, value: Any) -> None:
        """Let the names of a module, a class or an object that stand for the value stand for what they did before."""
        before = self.before.parts(owner)
        if before is None and not isinstance(owner, FunctionType):
            if not isinstance(owner, dict | type) and self.came_with(owner):
                return
            self.keepers.append(_said(owner))
            return
        names = owner if isinstance(owner, dict) else attributes_of(owner)
        for name in _keys_of(names, value):
            put(owner, name, self.earlier(before or {}, name))

    def came_with(self, holder: Any) -> bool:
        """Take away the holder itself, if it came into being with what it holds, and say so."""
        if isinstance(holder, CONTAINERS):
            parts = list(holder.values()) if isinstance(holder, dict) else list(holder)
            self.lists.append(parts)
            if not parts or not all(id(one) in self.ids for one in parts):
                return False
        for one in self.holders(holder):
            into = self.owner(one)
            into = one if into is None else into
            if isinstance(into, _lru_cache_wrapper | tuple) or self.before.parts(into) is not None:
                self.let_go(holder)
                return True
            if isinstance(holder, CONTAINERS) and into is one and isinstance(one, dict):
                self.let_go(holder)
                return True
        return False

    def remove(self, container: Any, value: Any) -> None:
        """Take a value out of a container; what it took the place of comes back."""
        before = self.before.parts(container)
        if isinstance(container, dict):
            for key in _keys_of(container, value):
                put(container, key, self.earlier(before or {}, key))
        else:
            self.lists.append(gone := [value])
            drop(container, gone)

    def earlier(self, before: dict[Any, Any], key: Any) -> Any:
        """What stood under a key, unless that was made inside, too."""
        value = before.get(key, ABSENT)
        return ABSENT if id(value) in self.ids else value


def _is_of_class(names: dict[str, Any], kind: type) -> bool:
    """Whether these are the names of a class, which shows a view of them only."""
    return all(vars(kind).get(name, names) is part for name, part in names.items())


def _keys_of(names: Any, value: Any) -> list[Any]:
    return [key for key, one in names.items() if one is value or key is value]


def _said(holder: Any) -> str:
    if isinstance(holder, dict):
        return f"the names of {holder.get('__name__', 'a module')}"
    if isinstance(holder, type):
        return f"the class {holder.__qualname__}"
    return "a variable of an enclosing function" if isinstance(holder, CellType) else f"a {type(holder).__name__}"
