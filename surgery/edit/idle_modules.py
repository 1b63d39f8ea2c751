"""Idle modules: those that are never called after an edit, and whether code still reads them."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable
from types import CodeType, FunctionType

from torch import fx, nn

from surgery.code.splice import codes_in
from surgery.code.subclass import base_of
from surgery.plan.plan import Plan

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LIBRARIES = ("torch.nn.", "surgery.")


def replaced_modules(model: nn.Module, plan: Plan) -> list[nn.Module]:
    """The modules with parameters all of whose calls a plan edits; to be computed before the plan is applied."""
    places = {edit.site.key[:-1] for edit in plan.edits}
    all_of: dict[nn.Module, bool] = {}
    for site in plan.sites:
        if site.module is not None:
            module = model.get_submodule(site.module)
            all_of[module] = all_of.get(module, True) and site.key[:-1] in places
    return [module for module, every in all_of.items() if every and any(True for _ in module.parameters())]


def idle_slots(model: nn.Module, replaced: Iterable[nn.Module]) -> list[str]:
    """The paths of modules whose calls were all replaced and that no code reads.

    A check for None does not count as a read. Where the code uses such a module otherwise (its weight, its class, a
    call that did not happen), the module stays.
    """
    slots = {id(module): list[str]() for module in replaced}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in slots:
            slots[id(module)].append(path)
    return [path for paths in slots.values() if not any(_is_read(model, path) for path in paths) for path in paths]


def _is_read(model: nn.Module, path: str) -> bool:
    """True if some method in the model may read the child at this path, other than to compare it with None."""
    around, _, name = path.rpartition(".")
    while isinstance(model.get_submodule(around), _CONTAINERS):
        if not around:
            return True
        around, _, name = around.rpartition(".")
    owner = type(model.get_submodule(around))
    if any(
        isinstance(value, fx.Graph)
        for module in model.modules()
        for key, value in vars(module).items()
        if key != "_graph"
    ):
        return True  # a graph for another mode
    return any(
        _mentions(code, name, own=kind is owner)
        for kind in {type(module) for module in model.modules()}
        for function in _methods(kind)
        for code in codes_in(function.__code__)
    )


def _methods(kind: type[nn.Module]) -> list[FunctionType]:
    """The functions of a class that can be called on its objects, except its constructor."""
    found: list[FunctionType] = []
    hidden: list[FunctionType] = []  # overridden by a subclass
    names: set[str] = {"__init__"}
    for base in kind.__mro__:
        if f"{base.__module__}.".startswith(_LIBRARIES) or base is object:
            continue
        rewritten = vars(kind) if base is base_of(kind) is not kind else ()
        for name, value in vars(base).items():
            held = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if isinstance(held, FunctionType) and name not in rewritten:
                inner = inspect.unwrap(held)
                (hidden if name in names else found).append(inner if isinstance(inner, FunctionType) else held)
        names |= set(vars(base))
    upwards = any("super" in code.co_names for function in found for code in codes_in(function.__code__))
    return found + [function for function in hidden if upwards and function.__name__ != "__init__"]


def _mentions(code: CodeType, name: str, *, own: bool) -> bool:
    """True if code reads an attribute of this name; with `own`, of `self` only."""
    if name in code.co_consts:
        return True  # getattr(self, "act")
    me = next(iter(code.co_varnames[: code.co_argcount]), "self")
    steps = list(dis.get_instructions(code))
    for before, step, after in zip([None, *steps], steps, [*steps[1:], None], strict=False):
        if step.argval != name or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            continue
        held = before.argval if before is not None else None
        of_me = (held[-1] if isinstance(held, tuple) else held) in (me, "self")
        asks_for_none = after is not None and "_NONE" in after.opname
        if (own or not of_me) and not asks_for_none:
            return True
    return False
