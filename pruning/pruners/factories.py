"""Factories: detect a factory passed instead of the pruner or criterion that it returns."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any

from surgery.errors import BadValue

_PACKAGE = "pruning"
_CRITERIA = "pruning.pruners.criteria"  # the only module whose plain functions are not factories


def check_pruner(pruner: Any) -> None:
    """Check that it is a pruner, callable with (round, share), and not an uncalled factory or class.

    A staged pruner need not be callable.

    Raises:
        BadValue: it is not; for a factory, the hint shows how to call it.
    """
    if callable(pruner) or not hasattr(pruner, "stages") or isinstance(pruner, type):
        check_function("This is not a pruner, which takes (round, share).", "pruner", pruner, takes=2,
                       try_="what a factory returns: pruning.global_magnitude()")  # fmt: skip


def check_function(problem: str, name: str, function: Any, *, takes: int, try_: str = "") -> None:
    """Check that it is a function of `takes` arguments, and not an uncalled factory or class.

    Raises:
        BadValue: it is not, with `problem` as the message.
    """
    if is_factory(function):
        raise BadValue(problem, asked=f"{name}={name_of(function)}, a factory{_signature(function)}",
                       try_=f"call it: {_call_of(function)}")  # fmt: skip
    if not callable(function):
        raise BadValue(problem, asked=f"{name}={function!r} ({type(function).__name__})", try_=try_)
    if not _takes(function, takes):
        raise BadValue(problem, asked=f"{name}={name_of(function)}", there=_signature(function), try_=try_)


def is_factory(function: Any) -> bool:
    """Whether it is a class, or one of this library's functions other than a criterion."""
    inner = _innermost(function)
    if isinstance(inner, type):
        return True
    module = str(getattr(inner, "__module__", ""))
    return inspect.isfunction(inner) and module.partition(".")[0] == _PACKAGE and module != _CRITERIA


def name_of(pruner: Any) -> str:
    """The name of a pruner in messages."""
    return getattr(pruner, "__name__", None) or repr(pruner)


def _innermost(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def _takes(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return True  # unknown
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _signature(function: Any) -> str:
    try:
        return str(inspect.signature(function))
    except (ValueError, TypeError):
        return ""


def _call_of(factory: Any) -> str:
    """The source of a call of a factory."""
    inner = _innermost(factory)
    public = getattr(sys.modules.get(_PACKAGE), inner.__name__, None) is inner
    name = f"{_PACKAGE}.{inner.__name__}" if public else inner.__name__
    return f"{name}()" if _takes(factory, 0) else f"{name}(...)"
