"""Own hooks: those that the model's own code has registered, and that it needs to run correctly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

_RUN = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
}
_INSTALLED = {"site-packages", "dist-packages"}


class OwnHooks:
    """Distinguishes a model's own hooks from those of its user, and copies them to a copy of the model.

    A hook is the model's own if it is a method of the model or of an object that the model holds, is defined inside a
    method of the model, or comes from the same installed library as the model. All other hooks belong to the user.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        kinds = {kind for module in model.modules() for kind in type(module).__mro__}
        homes = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "builtins")}
        self.methods = {(kind.__module__, f"{kind.__qualname__}.") for kind in kinds if kind.__module__ in homes}
        self.libraries = {name for home in homes if _is_installed(name := home.partition(".")[0])}

    def set(self, hook: Callable[..., Any], held: Mapping[int, Any]) -> bool:
        """Whether the model has registered it; `held` are the objects that the model holds, by id."""
        if isinstance(hook, partial):
            return self.set(hook.func, held)
        if isinstance(hook, MethodType):
            return id(hook.__self__) in held or self.set(hook.__func__, held)
        if not isinstance(hook, FunctionType):
            return id(hook) in held
        home, name = hook.__module__ or "", hook.__qualname__
        inside = any(home == module and name.startswith(method) for module, method in self.methods)
        return inside or home.partition(".")[0] in self.libraries

    def carry_over(self, memo: dict[int, Any]) -> None:
        """Copy its own hooks to the copy that was made with this `memo`, where they refer to the copy."""
        for module in self.model.modules():
            for name, flags in _RUN.items():
                hooks = vars(module).get(name) or {}
                for key, hook in list(hooks.items()):
                    if id(hooks) in memo and self.set(hook, memo):  # unless a __deepcopy__ leaves hooks out
                        memo[id(hooks)][key] = carried(hook, memo)
                        for flag in flags:
                            if key in (flagged := vars(module)[flag]):
                                memo[id(flagged)][key] = flagged[key]


def carried(hook: Any, memo: dict[int, Any]) -> Any:
    """The same hook, referring to the copies of the objects it refers to."""
    if isinstance(hook, partial):
        args = (memo.get(id(value), value) for value in hook.args)
        return partial(carried(hook.func, memo), *args, **{k: memo.get(id(v), v) for k, v in hook.keywords.items()})
    if isinstance(hook, MethodType):
        return MethodType(hook.__func__, memo.get(id(hook.__self__), hook.__self__))
    if not isinstance(hook, FunctionType) or not hook.__closure__:
        return memo.get(id(hook), hook)
    cells = tuple(_cell(cell, memo) for cell in hook.__closure__)
    made = FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
    made.__kwdefaults__ = hook.__kwdefaults__
    return made


def _cell(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        held = cell.cell_contents
    except ValueError:  # unassigned
        return cell
    return CellType(memo[id(held)]) if id(held) in memo else cell


def _is_installed(library: str) -> bool:
    file = getattr(sys.modules.get(library), "__file__", None)
    return file is not None and not _INSTALLED.isdisjoint(Path(file).parts)
