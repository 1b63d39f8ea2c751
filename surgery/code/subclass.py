"""Subclass: a run-time subclass whose methods call other children at chosen call sites."""

from __future__ import annotations

import dis
import hashlib
import inspect
import itertools
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, new_class
from typing import Any

import torch
from torch import fx, nn

from surgery.code.calls import forget, read
from surgery.code.splice import codes_in, splice
from surgery.errors import CannotEdit

_WALKS = ("children", "named_children", "modules", "named_modules", "_modules")
# Their __init_subclass__ only sets what the new class inherits anyway, without side effects.
_HARMLESS = (("transformers.modeling_utils", "PreTrainedModel"),)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True, order=True)
class Splice:
    """One call to be rewritten as `self.<child>(x)`, named as in the source of the base class (see `calls.Call`).

    `iteration` k >= 1 is the k-th run of that call expression within one run of the method; 0 is every other run.
    With `behind` the call stays, and the child receives its result.
    """

    method: str
    callee: str
    ordinal: int
    iteration: int
    child: str
    behind: bool = False


_made: weakref.WeakValueDictionary[tuple[type, tuple[Splice, ...]], type[nn.Module]] = weakref.WeakValueDictionary()
_origins: weakref.WeakKeyDictionary[type, tuple[type[nn.Module], tuple[Splice, ...]]] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def rewritten(base: type[nn.Module], splices: Sequence[Splice]) -> type[nn.Module]:
    """The subclass of `base` that calls these children: the same class each time, `base` itself without splices.

    It has the name, module and docstring of `base`, and defines only the methods it changes; assign it to the
    `__class__` of an object. It can be pickled, and read by inspect, tracebacks and TorchScript.

    Raises:
        CannotEdit: a method is not readable Python, or a call in it cannot be rewritten.
    """
    splices = tuple(sorted(set(splices)))
    if not splices:
        return base
    if base in _origins:
        raise CannotEdit(f"{base.__qualname__} is already rewritten.", try_="all its edits at once, on base_of(it)")
    known = _made.get((base, splices))
    if known is not None:
        return known
    places = [(splice.method, splice.callee, splice.ordinal, splice.iteration) for splice in splices]
    if len(set(places)) < len(places):
        raise CannotEdit(f"two children for the same call of {base.__qualname__}.", asked=str(list(splices)))
    names = sorted({place.method for place in splices})
    filenames = [f"<rewritten {base.__module__}.{base.__qualname__}.{name} {next(_numbers)}>" for name in names]
    body: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_ex,
    }
    for name, filename in zip(names, filenames, strict=True):
        body[name] = _respliced(base, name, [place for place in splices if place.method == name], filename)
    try:
        kind: type[nn.Module] = new_class(base.__name__, (base,), exec_body=lambda space: space.update(body))
    except TypeError as error:
        raise CannotEdit(f"{base.__qualname__} cannot be subclassed: {error}.") from error
    for filename in filenames:
        weakref.finalize(kind, forget, filename)
    _origins[kind] = (base, splices)
    _made[base, splices] = kind
    return kind


def base_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class as its author wrote it: `kind` itself if it was not rewritten."""
    return _origins[kind][0] if kind in _origins else kind


def splices_of(kind: type[nn.Module]) -> tuple[Splice, ...]:
    """The splices of a rewritten class; () for others."""
    return _origins[kind][1] if kind in _origins else ()


def owns(kind: type[nn.Module], method: str, code: CodeType) -> bool:
    """True if calling `method` on an object of `kind` runs `code` directly, not a parent's code through super()."""
    function = inspect.getattr_static(kind, method, None)
    return isinstance(function, FunctionType) and inspect.unwrap(function).__code__ is code


def check_instance(module: nn.Module, splices: Sequence[Splice]) -> None:
    """Check that a rewritten class would work for an object.

    Raises:
        CannotEdit: it runs its children one after the other, has one of the methods as an instance attribute, is fused
            by exact class, or is a graph or script module.
    """
    kind = base_of(type(module))
    name = kind.__qualname__
    if isinstance(module, fx.GraphModule):
        raise CannotEdit("a GraphModule has no source.", asked=name, try_="edit its graph")
    if isinstance(module, torch.jit.ScriptModule):
        raise CannotEdit("a scripted or traced module does not run Python.", asked=name, try_="edit it, then script it")
    if isinstance(module, _CONTAINERS):
        raise CannotEdit(f"{name} is a container: it would also run a new child.", try_="replace its child")
    if hasattr(kind, "fuse_model"):
        raise CannotEdit(
            f"{name}.fuse_model() fuses only objects of exactly this class, and would skip an edited one.",
            try_="undo, fuse, then transform again",
        )
    if _runs_code_for_subclasses(kind):
        raise CannotEdit(f"{name} runs code whenever it is subclassed, and an edit creates a subclass.")
    methods = sorted({splice.method for splice in splices})
    for method in methods:
        if method in vars(module):
            raise CannotEdit(f"this {name} has an instance attribute {method}, which hides the method of its class.")
    for function in _reached(kind, ["forward", *methods]):
        if function.__module__.startswith("torch.nn."):
            continue  # torch's own layers only look for hooks that way
        walk = _walk(_innermost(function).__code__)
        if walk is not None:
            raise CannotEdit(f"{name}.{function.__name__}() iterates over self.{walk}: it would also run a new child.")


def _runs_code_for_subclasses(kind: type) -> bool:
    """True if creating a subclass runs user code, such as one that registers the class."""
    hooked = (base for base in kind.__mro__ if "__init_subclass__" in vars(base) and base is not object)
    return type(kind) not in (type, ABCMeta) or any(
        base.__module__ != "typing" and (base.__module__, base.__name__) not in _HARMLESS for base in hooked
    )


def _respliced(base: type[nn.Module], name: str, splices: Sequence[Splice], filename: str) -> FunctionType:
    """The method `name` of `base` as a new function that calls the children."""
    function = inspect.getattr_static(base, name, None)
    if not isinstance(function, FunctionType):
        there = "nothing" if function is None else type(function).__name__
        raise CannotEdit(f"{base.__qualname__}.{name} is not a plain method.", asked=there)
    method = read(_innermost(function).__code__)
    if method.name != name:
        raise CannotEdit(f"{base.__qualname__}.{name} was defined under another name.", asked=f"{method.name}()")
    children: dict[tuple[str, int], dict[int, str]] = {}
    for place in splices:
        children.setdefault((place.callee, place.ordinal), {})[place.iteration] = place.child
    behind = {(place.callee, place.ordinal) for place in splices if place.behind}
    return _with_inner_code(function, splice(method, children, filename, behind))


def _innermost(function: FunctionType) -> FunctionType:
    """The function inside decorators that use functools.wraps; other decorators raise an error later."""
    inner = inspect.unwrap(function)
    if not isinstance(inner, FunctionType):
        raise CannotEdit(f"{function.__qualname__}() wraps a {type(inner).__name__}, not a function.")
    return inner


def _with_inner_code(function: FunctionType, code: CodeType) -> FunctionType:
    """A copy of `function` that runs `code`, inside copies of the decorators around it."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    inner = vars(function).get("__wrapped__")
    if inner is None:
        return _copied(function, code, cells)
    held = [name for name, cell in cells.items() if _held(cell) is inner]
    if not held:
        raise CannotEdit(f"a decorator of {function.__qualname__}() does not keep it in a closure.")
    new = _with_inner_code(inner, code)
    wrapper = _copied(function, function.__code__, cells | dict.fromkeys(held, CellType(new)))
    vars(wrapper).update({name: new for name, value in vars(wrapper).items() if value is inner})
    return wrapper


def _copied(function: FunctionType, code: CodeType, cells: dict[str, CellType]) -> FunctionType:
    lacking = sorted(set(code.co_freevars) - set(cells))
    if lacking:
        raise CannotEdit(f"{function.__qualname__}() has no variable {lacking[0]} of the function around it.")
    closure = tuple(cells[name] for name in code.co_freevars)
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__ = function.__kwdefaults__ and dict(function.__kwdefaults__)
    for name in ("__module__", "__qualname__", "__doc__", "__annotations__", "__type_params__"):
        if hasattr(function, name):
            setattr(copy, name, getattr(function, name))
    vars(copy).update(vars(function))
    return copy


def _held(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty: an unassigned variable
        return None


def _reached(kind: type[nn.Module], names: Sequence[str]) -> Iterator[FunctionType]:
    """The methods of `kind` that these methods may call, including themselves; except those of nn.Module."""
    todo, seen = list(names), set(names)
    while todo:
        name = todo.pop()
        function = inspect.getattr_static(kind, name, None)
        if not isinstance(function, FunctionType) or function is inspect.getattr_static(nn.Module, name, None):
            continue
        yield function
        for code in codes_in(_innermost(function).__code__):
            todo += [other for other in code.co_names if other not in seen]
            seen.update(code.co_names)


def _walk(code: CodeType) -> str | None:
    """The attribute of `self` through which this method iterates over all children, if it does."""
    me = code.co_varnames[0] if code.co_argcount else None
    for inner in codes_in(code):
        held: object = None  # the value that the next instruction may read an attribute of
        for step in dis.get_instructions(inner):
            if held is not None and held == me and step.argval in _WALKS:
                return str(step.argval)
            names = None if step.opcode in dis.hasconst else step.argval  # constants are not variables
            held = names[-1] if isinstance(names, tuple) else names  # 3.13 loads two variables at once
    return None


def _reduce_ex(self: nn.Module, protocol: int) -> Any:
    """The object as its base class would reduce it, to be assigned the rewritten class again."""
    kind = type(self)
    base, splices = _origins[kind]
    reduced = base.__reduce_ex__(self, protocol)
    if isinstance(reduced, str):
        return reduced
    make, args, *state = reduced
    parts = [base if part is kind else part for part in (make, *args)]
    return _restored, (base, splices, _digest(base, splices), *parts), *state


def _restored(
    base: type[nn.Module], splices: tuple[Splice, ...], digest: str, make: Callable[..., nn.Module], *args: Any
) -> nn.Module:
    """Unpickle or copy an object: create it as its base class would, and rewrite its class again.

    Raises:
        CannotEdit: the methods of the base class are not those the object was saved with.
    """
    if _digest(base, splices) != digest:
        raise CannotEdit(
            f"the code of {base.__qualname__} is not the code that was edited when this object was saved.",
            asked=", ".join(sorted({splice.method + "()" for splice in splices})),
            try_="the versions of the library and of Python that saved it",
        )
    kind = rewritten(base, splices)
    module = make(*args)
    module.__class__ = kind
    return module


def _digest(base: type[nn.Module], splices: tuple[Splice, ...]) -> str:
    """A digest of the edited methods that ignores line numbers."""
    digest = hashlib.sha256()
    for name in sorted({place.method for place in splices}):
        function = inspect.getattr_static(base, name, None)
        digest.update(name.encode())
        if isinstance(function, FunctionType):
            digest.update(_canonical(inspect.unwrap(function).__code__).encode())
    return digest.hexdigest()[:16]


def _canonical(value: object) -> str:
    if isinstance(value, CodeType):
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        return f"{value.co_name} {value.co_code.hex()} {names} {[_canonical(constant) for constant in value.co_consts]}"
    if isinstance(value, tuple):
        return str([_canonical(part) for part in value])
    if isinstance(value, frozenset):
        return str(sorted(map(_canonical, value)))  # the order of a set differs between processes
    return f"{type(value).__name__} {value!r}"
