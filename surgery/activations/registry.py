"""Registry: look up, build, describe and register the activations of the catalogue by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from torch import nn

from surgery.activations.catalogue import ROWS, Activation, row_of_expression
from surgery.activations.expressions.notation import parse
from surgery.activations.expressions.operators import INPUT
from surgery.activations.functions.affine import Affine
from surgery.activations.functions.npwlu import NPWLU
from surgery.activations.functions.pwlu import PWLU
from surgery.activations.recompute import check_memory
from surgery.activations.support import support
from surgery.dataflow.operations import TAG, activation_of_class, activation_of_module, options_of_module
from surgery.errors import BadValue, SurgeryError, UnknownName, nearest
from surgery.text import table

# Keywords of a builder besides the parameters of its function.
_SURROUNDINGS = ("channels", "axis", "like")
_BY_NAME = {name: row for row in ROWS for name in (row.name, *row.aliases)}
# Classes that do not say of themselves which activation they are.
_CLASSES: dict[type, str] = {nn.Identity: "identity", Affine: "affine", PWLU: "pwlu", NPWLU: "npwlu"}


def names(pattern: str = "*") -> list[str]:
    """The names of all activations of the catalogue, or of those that match a pattern such as "*gelu*"."""
    return sorted({row.name for row in _BY_NAME.values() if fnmatchcase(row.name, pattern)})


def build(
    name: str, channels: int | None = None, *, axis: int = 1, like: nn.Module | None = None, **params: Any
) -> nn.Module:
    """Build one activation by name, for tensors with this many channels on this axis.

    Without `channels`, learned parameters are shared by all channels. `like` is the function it replaces, which some
    functions compute until they learn (PWLU). Learned functions also take `memory`, see `surgery.swap`.

    Raises:
        UnknownName: an unknown activation, or a parameter that it does not have.
        BadValue: the builder rejects a parameter, or does not return a module; or `channels` is not a positive integer.
    """
    row = row_of(name)
    if channels is not None and (type(channels) is not int or channels < 1):
        raise BadValue(
            "`channels` must be a positive integer or None.", asked=f"channels={channels!r}", try_="1 or more, or None"
        )
    known = parameters(name)
    for key in params:
        if key not in known:
            raise UnknownName(
                f"{row.name!r} does not have a parameter {key!r}.", there=", ".join(known) or "no parameters",
                try_=nearest(key, known),
            )  # fmt: skip
    asked = ", ".join(f"{key}={value!r}" for key, value in params.items())
    recompute = check_memory(params.pop("memory", "keep")) if row.kernel else False
    try:
        module = _made(row, {"channels": channels, "axis": axis, "like": like}, params)
    except SurgeryError as error:  # its message already has a hint
        raise type(error)(f"{row.name!r} cannot be built with {asked or 'what it has'}. {error}") from error
    except (TypeError, ValueError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise BadValue(f"{row.name!r} cannot be built: {why}", asked=asked) from error
    if recompute:
        module.recompute = True  # type: ignore[assignment]  # an attribute, not a parameter
    if row.role != "linear" and activation_of_module(module) != row.name:
        module.__dict__[TAG] = row.name  # so that find_sites lists it under this name
    return module


def _made(row: Activation, around: Mapping[str, Any], params: Mapping[str, Any]) -> nn.Module:
    """Call the builder of a row, with those of the surroundings that it has keywords for."""
    taken = inspect.signature(row.build).parameters
    module: object = row.build(**{key: value for key, value in around.items() if key in taken}, **params)
    if not isinstance(module, nn.Module):
        raise BadValue(f"The builder of {row.name!r} does not return a module.", asked=type(module).__name__,
                       try_="a builder that returns an nn.Module")  # fmt: skip
    return module


def parameters(name: str) -> tuple[str, ...]:
    """The names of the parameters `build` takes for this activation."""
    return tuple(key for key in _defaults(row_of(name)) if key not in _SURROUNDINGS)


def _defaults(row: Activation) -> dict[str, Any]:
    """The keywords of a function, and their defaults; those that learn may recompute what others keep."""
    taken = inspect.signature(row.build).parameters.items()
    return {key: parameter.default for key, parameter in taken} | ({"memory": "keep"} if row.kernel else {})


def describe(name: str | None = None) -> str:
    """Describe one activation: its formula, its parameters, how it is initialised, how it is run, what it becomes on
    deployment targets, its source.

    Without a name: a table of all.

    >>> print(surgery.activations.describe("pwlu"))
    """
    if name is not None:
        return _described(row_of(name))
    rows = sorted({row.name: row for row in _BY_NAME.values()}.values(), key=lambda row: (not row.learns, row.name))
    cells = [(row.name, row.formula, ", ".join(row.learns) or "-", ", ".join(row.begins) or "-") for row in rows]
    return "\n".join(table(("name", "computes", "learns", "begins exactly as"), cells))


def _described(row: Activation) -> str:
    ranges = {**row.ranges, "memory": "'keep' or 'recompute'"}
    given = [
        f"{key}={default!r}" + (f" ({ranges[key]})" if key in ranges else "")
        for key, default in _defaults(row).items() if key not in _SURROUNDINGS
    ]  # fmt: skip
    facts = {
        "computes": row.formula,
        "parameters": ", ".join(given) or "none",
        "learns": ", ".join(row.learns) or "nothing",
        "role": row.role,
        "begins as": row.beginning,
        "runs": "; ".join(f"{device}: {how}" for device, how in row.running().items()),
        "deployed": "; ".join(support().lines_of(row.name)),
        "also called": ", ".join(row.aliases),
        "source": row.source,
    }
    return "\n".join([row.name, *(f"  {label:<12}{text}" for label, text in facts.items() if text)])


def register(name: str, build: Callable[..., nn.Module], *, source: str = "") -> None:
    """Add your own activation: `build` takes keyword parameters, which `swap` passes on, and returns a module.

    The builder also gets the following, if it has a keyword for it: `channels`, their number, or None if all share the
    parameters; `axis`, the channel axis; `like`, the module that is replaced, or None.

    A module with `start_as(function, stats)` is initialised to match what it replaces: `function` maps rows of channels
    (n, C), `stats` is a `surgery.activations.input_stats.InputStats`. `set_progress(progress, step)` of a module is
    called with the training progress, and `finish()` when `settle` ends the training.

    Raises:
        BadValue: the name is taken or not a string; or `build` cannot be called with keywords.
    """
    if not isinstance(name, str) or not name or name != name.strip():
        raise BadValue("An activation needs a name.", asked=repr(name), try_="'my_relu'")
    if name in _BY_NAME:
        raise BadValue(f"An activation named {name!r} already exists.", try_="another name")
    _check_keywords(name, build)
    _BY_NAME[name] = Activation(name, build, source=source)


def _check_keywords(name: str, build: Callable[..., nn.Module]) -> None:
    """Check that a builder can be called with keywords."""
    cures = "a function of keyword parameters that returns an nn.Module"
    try:
        taken = inspect.signature(build).parameters.values()
    except (TypeError, ValueError) as error:
        raise BadValue(f"{name!r} needs a builder with keywords.", asked=repr(build), try_=cures) from error
    if any(part.kind not in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY) for part in taken):
        raise BadValue(f"The builder of {name!r} must name each keyword.", asked=repr(build), try_=cures)


def row_of(name: str) -> Activation:
    """The row with this name or alias; upper and lower case are the same, and so are "hard_swish" and "Hardswish".

    An expression, such as "mul(x, sigmoid(x))", names the function that it computes; see
    `surgery.activations.expressions`.

    Raises:
        UnknownName: an unknown name.
        BadValue: not a string, or an expression that is malformed.
    """
    if not isinstance(name, str):
        raise BadValue("An activation is given by its name.", asked=repr(name), try_="'gelu'")
    if name in _BY_NAME:
        return _BY_NAME[name]
    if "(" in name or name == INPUT:
        return _row_of_text(name)
    alike = {row.name: row for known, row in _BY_NAME.items() if _letters(known) == _letters(name)}
    if len(alike) != 1:
        hints = (
            nearest(name.lower(), _BY_NAME),
            f"surgery.activations.register({name!r}, build), if it is yours",
        )
        raise UnknownName(
            f"No activation is named {name!r}.", there=", ".join(names()), try_="; or ".join(filter(None, hints))
        )
    return alike.popitem()[1]


@lru_cache(maxsize=1024)
def _row_of_text(text: str) -> Activation:
    return row_of_expression(parse(text))


def named(activation: str | type[nn.Module] | nn.Module) -> tuple[str, dict[str, Any]]:
    """The name of an activation that is given as a name, a class or an object, and the object's own parameters.

    Parameters that are the default are left out.

    Raises:
        UnknownName: the catalogue has no such name, or no such class.
        BadValue: this is none of the three, or an object whose parameters cannot be read off, such as a learned one.
    """
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return _name_of_class(activation), {}
    if isinstance(activation, nn.Module):
        return _name_and_parameters(activation)
    return row_of(activation).name, {}


def _name_of_class(kind: type[nn.Module]) -> str:
    registered = next((row.name for row in _BY_NAME.values() if row.build is kind), None)
    name = registered or activation_of_class(kind) or _CLASSES.get(kind)
    if name not in _BY_NAME:
        raise UnknownName(
            f"{kind.__name__} is not an activation of the catalogue.", there=", ".join(names()),
            try_=f"surgery.activations.register({kind.__name__.lower()!r}, {kind.__name__}), then that name",
        )  # fmt: skip
    return name


def _name_and_parameters(module: nn.Module) -> tuple[str, dict[str, Any]]:
    name = activation_of_module(module) or _name_of_class(type(module))
    read = dict(options_of_module(name, module))
    defaults = _defaults(row_of(name))
    if not set(parameters(name)) <= set(read):
        raise BadValue(
            f"The parameters of this {type(module).__name__} cannot be read from it.", asked=repr(module),
            try_=f"the name {name!r}, with keywords: {', '.join(parameters(name))}",
        )  # fmt: skip
    return name, {key: value for key, value in read.items() if value != defaults.get(key)}


def _letters(name: str) -> str:
    """A name as people remember it: without case and underscores."""
    return name.casefold().replace("_", "").replace("-", "")
