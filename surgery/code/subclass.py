"""A run-time subclass whose one method calls another child at chosen call sites."""

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
# Their __init_subclass__ gives the new class what it inherits anyway, and tells nobody else.
_HARMLESS = (("transformers.modeling_utils", "PreTrainedModel"),)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True, order=True)
class Splice:
    """One call that shall become `self.<child>(x)`, named as in the source of the base class (see `source.Call`).

    `iteration` k >= 1 is the k-th run of that call expression within one run of the method; 0 is every other run.
    With `behind` the call stays, and the child is given its result.
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
    """The subclass of `base` that calls these children: the same class each time, `base` itself for no splices.

    It has the name, the module and the documentation of `base`, and adds nothing but the methods it changes; give it
    to an object by assigning `__class__`. It can be pickled, and read by inspect, tracebacks and TorchScript.

    Raises:
        CannotEdit: a method is not plain Python that can be read, or a call in it cannot be spliced.
    """
    splices = tuple(sorted(set(splices)))
    if not splices:
        return base
    if base in _origins:
        raise CannotEdit(f"{base.__qualname__} is rewritten already.", try_="all its edits at once, on base_of(it)")
    known = _made.get((base, splices))
    if known is not None:
        return known
    places = [(one.method, one.callee, one.ordinal, one.iteration) for one in splices]
    if len(set(places)) < len(places):
        raise CannotEdit(f"two children are asked for at one call of {base.__qualname__}.", asked=str(list(splices)))
    names = sorted({one.method for one in splices})
    filenames = [f"<rewritten {base.__module__}.{base.__qualname__}.{name} {next(_numbers)}>" for name in names]
    body: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_ex,
    }
    for name, filename in zip(names, filenames, strict=True):
        body[name] = _respliced(base, name, [one for one in splices if one.method == name], filename)
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
    """The class as its author wrote it: `kind` itself if it is not one of ours."""
    return _origins[kind][0] if kind in _origins else kind


def splices_of(kind: type[nn.Module]) -> tuple[Splice, ...]:
    """What is spliced into this class, () if it is not one of ours."""
    return _origins[kind][1] if kind in _origins else ()


def owns(kind: type[nn.Module], method: str, code: CodeType) -> bool:
    """True if an object of `kind` runs `code` when its `method` is called: not a parent's, reached through super()."""
    function = inspect.getattr_static(kind, method, None)
    return isinstance(function, FunctionType) and inspect.unwrap(function).__code__ is code


def check_instance(module: nn.Module, splices: Sequence[Splice]) -> None:
    """Refuse an object that a rewritten class would not serve.

    Raises:
        CannotEdit: it runs its children one after the other, has one of the methods as its own attribute, is fused by
            exact class, or is a graph or a script.
    """
    kind = base_of(type(module))
    name = kind.__qualname__
    if isinstance(module, fx.GraphModule):
        raise CannotEdit("a GraphModule has no source of its own.", there=name, try_="edit its graph")
    if isinstance(module, torch.jit.ScriptModule):
        raise CannotEdit("a scripted or traced module runs no Python.", there=name, try_="edit it, then script it")
    if isinstance(module, _CONTAINERS):
        raise CannotEdit(f"{name} is a container: it would run a new child like its others.", try_="replace its child")
    if hasattr(kind, "fuse_model"):
        raise CannotEdit(
            f"{name}.fuse_model() fuses only objects of exactly this class, and would pass over an edited one.",
            try_="undo, fuse, then transform again",
        )
    if _minds_subclasses(kind):
        raise CannotEdit(f"{name} does something with every subclass of it, and an edit makes one.")
    methods = sorted({one.method for one in splices})
    for method in methods:
        if method in vars(module):
            raise CannotEdit(f"this {name} has a {method}() of its own, which hides the one of its class.")
    for function in _reached(kind, ["forward", *methods]):
        if function.__module__.startswith("torch.nn."):
            continue  # torch's own layers look for hooks that way, they do not run what they find
        walk = _walk(_innermost(function).__code__)
        if walk is not None:
            raise CannotEdit(f"{name}.{function.__name__}() goes through self.{walk}: it would run a new child too.")


def _minds_subclasses(kind: type) -> bool:
    """True if making a subclass runs code of the user's, such as one that enters it into a registry."""
    hooked = (one for one in kind.__mro__ if "__init_subclass__" in vars(one) and one is not object)
    return type(kind) not in (type, ABCMeta) or any(
        one.__module__ != "typing" and (one.__module__, one.__name__) not in _HARMLESS for one in hooked
    )


def _respliced(base: type[nn.Module], name: str, splices: Sequence[Splice], filename: str) -> FunctionType:
    """The method `name` of `base` as a new function that calls the children."""
    function = inspect.getattr_static(base, name, None)
    if not isinstance(function, FunctionType):
        there = "nothing" if function is None else type(function).__name__
        raise CannotEdit(f"{base.__qualname__}.{name} is not a plain method.", there=there)
    method = read(_innermost(function).__code__)
    if method.name != name:
        raise CannotEdit(f"{base.__qualname__}.{name} was defined under another name.", there=f"{method.name}()")
    children: dict[tuple[str, int], dict[int, str]] = {}
    for one in splices:
        children.setdefault((one.callee, one.ordinal), {})[one.iteration] = one.child
    behind = {(one.callee, one.ordinal) for one in splices if one.behind}
    return _with_inner_code(function, splice(method, children, filename, behind))


def _innermost(function: FunctionType) -> FunctionType:
    """The function that decorators made with functools.wraps stand around; those without it are refused later."""
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
        raise CannotEdit(f"a decorator of {function.__qualname__}() keeps it in another place than a closure.")
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
    except ValueError:  # empty: a variable not assigned yet
        return None


def _reached(kind: type[nn.Module], names: Sequence[str]) -> Iterator[FunctionType]:
    """The methods of `kind` that these methods may call, themselves included; nn.Module's own left out."""
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
    """The attribute of the first argument through which this method goes over all children, if it does."""
    me = code.co_varnames[0] if code.co_argcount else None
    for one in codes_in(code):
        held: object = None  # what the next step may take an attribute of
        for step in dis.get_instructions(one):
            if held is not None and held == me and step.argval in _WALKS:
                return str(step.argval)
            names = None if step.opcode in dis.hasconst else step.argval  # a constant is no variable
            held = names[-1] if isinstance(names, tuple) else names  # 3.13 loads two variables at once
    return None


def _reduce_ex(self: nn.Module, protocol: int) -> Any:
    """The object as its base class would reduce it, to be given the rewritten class again."""
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
    """What unpickling and copying call: make the object as its base class would, and rewrite its class again.

    Raises:
        CannotEdit: the methods of the base class are not those the object was saved with.
    """
    if _digest(base, splices) != digest:
        raise CannotEdit(
            f"the code of {base.__qualname__} is not the code that was edited when this object was saved.",
            there=", ".join(sorted({one.method + "()" for one in splices})),
            try_="the version of the library, and of Python, that saved it",
        )
    kind = rewritten(base, splices)
    module = make(*args)
    module.__class__ = kind
    return module


def _digest(base: type[nn.Module], splices: tuple[Splice, ...]) -> str:
    """What the edited methods do, whatever line they stand on."""
    told = hashlib.sha256()
    for name in sorted({one.method for one in splices}):
        function = inspect.getattr_static(base, name, None)
        told.update(name.encode())
        if isinstance(function, FunctionType):
            told.update(_said(inspect.unwrap(function).__code__).encode())
    return told.hexdigest()[:16]


def _said(value: object) -> str:
    if isinstance(value, CodeType):
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        return f"{value.co_name} {value.co_code.hex()} {names} {[_said(one) for one in value.co_consts]}"
    if isinstance(value, tuple):
        return str([_said(one) for one in value])
    if isinstance(value, frozenset):
        return str(sorted(map(_said, value)))  # its own order differs from process to process
    return f"{type(value).__name__} {value!r}"
