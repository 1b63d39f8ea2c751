"""Factories: what makes a pruner or a criterion, told apart from what it makes."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any

from surgery.errors import BadValue

_PACKAGE = "pruning"
_CRITERIA = "pruning.pruners.criteria"  # the one place whose plain functions are no factories


def check_pruner(pruner: Any) -> None:
    """Refuse what is no pruner: a factory or a class that was not called, or what takes no (round, share).

    A pruner of several stages need not be callable.

    Raises:
        BadValue: that; a factory is named with how it is called.
    """
    if callable(pruner) or not hasattr(pruner, "stages") or isinstance(pruner, type):
        check_function("This is no pruner: it takes (round, share).", "pruner", pruner, takes=2,
                       try_="what a factory returns: pruning.global_magnitude()")  # fmt: skip


def check_function(problem: str, name: str, function: Any, *, takes: int, try_: str = "") -> None:
    """Refuse a factory or a class that was not called, and what does not take so many arguments.

    Raises:
        BadValue: that, with the `problem`.
    """
    if is_factory(function):
        raise BadValue(problem, asked=f"{name}={name_of(function)}", there=f"a factory{_signature(function)}",
                       try_=f"call it: {_call_of(function)}")  # fmt: skip
    if not callable(function):
        raise BadValue(problem, asked=f"{name}={function!r}", there=type(function).__name__, try_=try_)
    if not _takes(function, takes):
        raise BadValue(problem, asked=f"{name}={name_of(function)}", there=_signature(function), try_=try_)


def is_factory(function: Any) -> bool:
    """Whether it makes something that belongs where it stands: a class, or one of our functions but for criteria."""
    inner = _innermost(function)
    if isinstance(inner, type):
        return True
    module = str(getattr(inner, "__module__", ""))
    return inspect.isfunction(inner) and module.partition(".")[0] == _PACKAGE and module != _CRITERIA


def name_of(pruner: Any) -> str:
    """What messages call a pruner."""
    return getattr(pruner, "__name__", None) or repr(pruner)


def _innermost(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def _takes(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return True  # nobody can tell
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
    """How a factory is called, as one would write it."""
    inner = _innermost(factory)
    public = getattr(sys.modules.get(_PACKAGE), inner.__name__, None) is inner
    name = f"{_PACKAGE}.{inner.__name__}" if public else inner.__name__
    return f"{name}()" if _takes(factory, 0) else f"{name}(...)"
