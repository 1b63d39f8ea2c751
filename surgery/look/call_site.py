"""Locate a running call in the code: owner, method, call expression, loop iteration, run of the method."""

from __future__ import annotations

import ast
import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FrameType, MethodType
from typing import Any

from torch import fx, nn
from torch.ao.nn.quantized import FloatFunctional

from surgery.activations.functions.arithmetic import Arithmetic
from surgery.code.calls import COMPREHENSIONS, Call, assigned_name, call_at
from surgery.code.subclass import owns
from surgery.dataflow.operations import activation_of_module
from surgery.dataflow.trace import CallRecord
from surgery.errors import CannotEdit, one_line
from surgery.look.references import References

_THIN = ("torch.", "timm.layers.activations")  # their functions only compute the activation they name
_MODULE_FILE = nn.Module.__call__.__code__.co_filename


class Locator:
    """Finds, from the frames of a running forward, which module's code makes a call, and where."""

    def __init__(
        self, model: nn.Module, activations: Mapping[int, str] | None = None, references: References = ()
    ) -> None:
        self.activations = {} if activations is None else activations  # id of a module -> what it computes
        self.paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        self.unseated = {id(reference.old) for reference in references}
        self.paths |= {id(reference.old): self.paths[id(reference.new)] for reference in references}
        self.frames: dict[tuple[str, CodeType], list[FrameType]] = {}
        self.passes: dict[tuple[int, str, int], int] = {}
        self.keys: set[tuple[Any, ...]] = set()
        self.looping: list[FrameType] = []  # frames with counted iterations, kept alive so that their ids stay unique

    def place_of(self, frame: FrameType | None) -> str | None:
        """The path of the module whose own forward joins paths here; helpers for its arithmetic are skipped."""
        found = self._owner(frame, None, lent=(FloatFunctional, Arithmetic))
        return None if found is None else found[1]

    def forget(self) -> None:
        """Release the frames."""
        self.frames.clear()
        self.looping.clear()

    def arrive(self, frame: FrameType | None, module: nn.Module) -> None:
        """Count an iteration of the loop that calls this module, if there is one; a loop may call several modules."""
        found = self._owner(frame, module)
        if found is not None:
            try:
                call = call_at(found[3].f_code, found[3].f_lasti)
            except CannotEdit:
                return
            if call.looped:
                self._pass(found[2], call)

    def locate(
        self, record: CallRecord, frame: FrameType | None, module: nn.Module | None, func: Callable[..., Any] | None
    ) -> None:
        """Fill in the caller: owner, method, callee, ordinal, iteration and run."""
        function_name = getattr(func, "__name__", "").rstrip("_")
        record.target = record.callee = function_name
        found = self._owner(frame, module)
        direct = module is None
        if found is not None and direct and self.activations.get(id(found[0])) == record.activation:
            # The code calls the activation's `forward` directly: hooks do not run, but the module is still the callee.
            module = found[0]
            found = self._owner(frame, module)
            record.by_reference = True
        if found is None:
            record.locked = "no module's own Python code makes this call"
            record.module = self.paths[id(module)][0] if module is not None else None
            record.target = record.module or function_name
            return
        owner, record.owner, method_frame, call_frame, between = found
        record.owner_kind = type(owner).__name__
        record.method = method_frame.f_code.co_name
        runs = self.frames.setdefault((record.owner, method_frame.f_code), [])
        if not any(known is method_frame for known in runs):
            runs.append(method_frame)
        record.run = 1 + next(k for k, known in enumerate(runs) if known is method_frame)
        try:
            call = call_at(call_frame.f_code, call_frame.f_lasti)
        except CannotEdit as reason:
            record.locked = one_line(reason)
            record.iteration = self._pass(method_frame, Call("", record.callee or str(id(module)), 0, False, None))
        else:
            record.method, record.callee, record.ordinal = call.method, call.callee, call.ordinal
            if call.looped:
                key = (id(method_frame), call.callee, call.ordinal)
                record.iteration = self._pass(method_frame, call) if direct else self.passes[key]
            record.locked = call.locked or self._not_the_activation(call, call_frame, between, record, module, func)
            if isinstance(owner, fx.GraphModule):
                record.callee, record.ordinal = assigned_name(call_frame.f_code, call_frame.f_lasti) or call.callee, 1
                record.locked = _not_a_node(owner, record.callee, module, func)
            elif not owns(type(owner), call.method, method_frame.f_code):
                kind, static = record.owner_kind, _is_static(owner, call.method)
                record.locked = f"the call is in a {call.method}() that {kind} does not define itself: " + (
                    "it is static, and has no self whose child it could call"
                    if static
                    else "it is reached through super(), a decorator or an instance attribute"
                    if hasattr(type(owner), call.method)
                    else "a function that is given the module"
                )
        if module is not None:
            record.module, record.target = self._target(module, record, owner)
            record.by_reference |= id(module) in self.unseated

    def tell_apart(self, record: CallRecord) -> None:
        """Make the key of each call unique: number the calls of one call expression, or of unreadable code."""
        while record.key in self.keys:
            record.iteration = (record.iteration or 1) + 1
        self.keys.add(record.key)

    def _pass(self, frame: FrameType, call: Call) -> int:
        key = (id(frame), call.callee, call.ordinal)
        if key not in self.passes:
            self.looping.append(frame)
        self.passes[key] = self.passes.get(key, 0) + 1
        return self.passes[key]

    def _owner(
        self, frame: FrameType | None, skip: nn.Module | None, lent: tuple[type[nn.Module], ...] = ()
    ) -> tuple[nn.Module, str, FrameType, FrameType, list[FrameType]] | None:
        """The innermost module whose own code is running: it, its path, its frame, the calling frame, frames between.

        The calling frame is that of the module's method, or of a comprehension inside it.
        """
        between: list[FrameType] = []
        while frame is not None:
            module = _self_of(frame)
            torchs = frame.f_code.co_filename == _MODULE_FILE
            ours = torchs or _of_the_library(frame) or type(module) in lent
            if module is None or id(module) not in self.paths or module is skip:
                pass
            elif torchs and between and _is_static(module, between[-1].f_code.co_name):
                return module, self._path(module, frame), between[-1], between[-1], between[:-1]
            elif not ours:
                inner = [frame for frame in between if frame.f_code.co_name in COMPREHENSIONS]
                call_frame = inner[0] if inner and inner == between[-len(inner) :] else frame
                functions = [frame for frame in between if frame not in inner and not _thin(frame)]
                return module, self._path(module, frame), frame, call_frame, functions
            if not ours:
                between.append(frame)
            frame = frame.f_back
        return None

    def _path(self, module: nn.Module, frame: FrameType | None) -> str:
        """The name a module was called by: where it has several names, the one in the caller's code."""
        names = self.paths[id(module)]
        if len(names) == 1:
            return names[0]
        while frame is not None:
            caller = _self_of(frame)
            own = frame.f_code.co_filename == _MODULE_FILE
            if caller is not None and caller is not module and id(caller) in self.paths and not own:
                prefix = self._path(caller, frame)
                try:
                    spelt = call_at(frame.f_code, frame.f_lasti).callee.split(".", 1)[-1]
                except CannotEdit:
                    spelt = ""
                inside = [name for name in names if name.startswith(prefix + "." if prefix else "")]
                exact = [name for name in inside if name == (f"{prefix}.{spelt}" if prefix else spelt)]
                return (exact or inside or names)[0]
            frame = frame.f_back
        return names[0]

    def _target(self, module: nn.Module, record: CallRecord, owner: nn.Module) -> tuple[str, str]:
        """The path an activation module was called by, absolute and relative to its owner."""
        names = self.paths[id(module)]
        prefix = record.owner + "." if record.owner else ""
        inside = [name for name in names if name.startswith(prefix)]
        if not inside:
            return names[0], names[0]
        spelt = record.callee.split(".", 1)[-1]
        exact = [name for name in inside if name == prefix + spelt]
        if not exact and isinstance(owner, nn.Sequential) and record.iteration and len(owner) >= record.iteration:
            in_order = list(owner._modules)
            exact = [prefix + in_order[record.iteration - 1]]
        chosen = (exact or inside)[0]
        return chosen, chosen[len(prefix) :]

    def _not_the_activation(
        self,
        call: Call,
        frame: FrameType,
        between: list[FrameType],
        record: CallRecord,
        module: nn.Module | None,
        func: Callable[..., Any] | None,
    ) -> str | None:
        """Why the call expression is more than a plain call of the activation; None if it is just that."""
        spelt = not call.callee.startswith(".") and call.child is None
        called: Any = module
        reason = None
        if spelt:
            try:
                called = _behind_partial(_looked_up(ast.parse(call.callee, mode="eval").body, frame))
            except (AttributeError, LookupError, TypeError):
                reason = f"{call.callee} cannot be looked up without running code"
        around = [inner for inner in between if _self_of(inner) is None or _self_of(inner) not in (module, called)]
        if around:
            return f"it is called inside the function {around[0].f_code.co_name}()"
        if not spelt:
            return None
        if not call.expression_is_plain:
            return f"{call.callee}(...) is not a plain name"
        if reason is not None:
            return reason
        if module is not None:
            same = called is module or (_is_bound_forward(called) and called.__self__ is module)
        elif getattr(func, "__name__", "") in ("prelu", "_prelu_kernel"):
            return f"{call.callee}(...) takes its slope from the model"
        elif call.looped and call.callee in frame.f_locals:
            return f"{call.callee} is a different function in other iterations of its loop"
        elif isinstance(called, nn.Module):  # not a submodule of the model
            same = activation_of_module(called) == record.activation
        else:
            home = getattr(called, "__module__", None) or ""
            named = getattr(called, "__name__", "").rstrip("_") == getattr(func, "__name__", "").rstrip("_")
            same = called is func or home.startswith("timm.layers.activations")
            same |= named and not _written_elsewhere(home)
        return None if same else f"{call.callee}(...) does more than call the activation"


def _not_a_node(
    owner: fx.GraphModule, name: str, module: nn.Module | None, func: Callable[..., Any] | None
) -> str | None:
    """Why the node of this name is not a plain call of the activation; None if it is."""
    node = next((node for node in owner.graph.nodes if node.name == name), None)
    if node is None:
        return f"the graph has no node {name}"
    if not node.args or not isinstance(node.args[0], fx.Node):
        return f"the node {name} does not get its input as its first argument"
    if module is not None:
        same = node.op == "call_module" and owner.get_submodule(str(node.target)) is module
    else:
        called = getattr(node.target, "__name__", str(node.target))
        same = node.op != "call_module" and called.rstrip("_") == getattr(func, "__name__", "").rstrip("_")
    return None if same else f"the node {name} does more than call the activation"


def _looked_up(node: ast.expr, frame: FrameType) -> Any:
    """The value of a dotted name in a frame, looked up without running any code.

    Raises:
        AttributeError, LookupError, TypeError: it cannot be found that way, for example behind a property.
    """
    if isinstance(node, ast.Name):
        return ChainMap(frame.f_locals, frame.f_globals, frame.f_builtins)[node.id]
    if isinstance(node, ast.Attribute):
        owner = _looked_up(node.value, frame)
        if isinstance(inspect.getattr_static(type(owner), node.attr, None), property):
            raise TypeError
        return getattr(owner, node.attr)
    if isinstance(node, ast.Subscript):
        owner = _looked_up(node.value, frame)
        if type(owner) not in (nn.ModuleList, nn.ModuleDict, nn.Sequential, list, tuple, dict):
            raise TypeError
        return owner[_looked_up(node.slice, frame)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_looked_up(node.operand, frame)
    if isinstance(node, ast.Constant):
        return node.value
    raise TypeError


def _behind_partial(called: Any) -> Any:
    """The function inside a functools.partial that only adds keywords; these were recorded with the call."""
    while isinstance(called, partial) and not called.args:
        called = called.func
    return called


def _is_bound_forward(called: Any) -> bool:
    """True for a bound `forward` or `__call__` of a module."""
    return isinstance(called, MethodType) and called.__func__.__name__ in ("forward", "__call__", "_wrapped_call_impl")


def _written_elsewhere(home: str) -> bool:
    return bool(home) and not home.startswith(("torch", "builtins"))


def _self_of(frame: FrameType) -> nn.Module | None:
    """The first argument of a frame if it is a module."""
    code = frame.f_code
    if not code.co_argcount or code.co_name in COMPREHENSIONS:
        return None
    first = frame.f_locals.get(code.co_varnames[0])
    return first if isinstance(first, nn.Module) else None


def _is_static(module: nn.Module, method: str) -> bool:
    return isinstance(inspect.getattr_static(type(module), method, None), staticmethod)


def _of_the_library(frame: FrameType) -> bool:
    """True for code of this library that runs a model; our activations count as parts of the model."""
    name = str(frame.f_globals.get("__name__", ""))
    return name.startswith("surgery.") and not name.startswith("surgery.activations")


def _thin(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith((*_THIN, "surgery."))
