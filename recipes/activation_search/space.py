"""Space: the expressions that a search may try, made of core units as in the paper.

A core unit is a binary function of two unary ones, each of x or of the core before it.

Source: Ramachandran, Zoph and Le 2017, "Searching for activation functions", arXiv 1710.05941, section 2.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from surgery.activations.expressions.equality import distinct
from surgery.activations.expressions.expression import Expression, X
from surgery.activations.expressions.operators import BINARY, INPUT, OPERATORS, UNARY
from surgery.errors import BadFile, BadValue, UnknownName, nearest

FORMAT = 1
Choices = Mapping[str, str]  # a name for every slot

_MOST_CORES = 2
_MOST_LISTED = 100_000  # expressions that are compared with each other, which takes half a millisecond each
_INPUTS = ("core, x", "x, core", "core, core")  # of the second core
_EQUAL_IF_SAME = ("max", "min", "mix")  # of two equal arguments they are that argument
_KEYS = ("format", "about", "cores", "unary", "binary")


@dataclass(frozen=True, slots=True)
class Space:
    """One or two core units, and the functions that they are made of, by name; "x" is the identity.

    Raises:
        UnknownName: there is no such function.
        BadValue: another number of cores, or no functions.
    """

    name: str
    cores: int = 1
    unary: tuple[str, ...] = UNARY
    binary: tuple[str, ...] = BINARY
    about: str = ""

    def __post_init__(self) -> None:
        if self.cores not in range(1, _MOST_CORES + 1):
            raise BadValue("A space has one core or two.", asked=f"cores = {self.cores!r}")
        for kind, given, known in (("unary", self.unary, UNARY), ("binary", self.binary, BINARY)):
            if not given or len(set(given)) < len(given):
                raise BadValue(f"A space needs {kind} functions, each once.", asked=", ".join(given) or "none")
            for name in given:
                if name not in known:
                    raise UnknownName(f"No {kind} function is named {name!r}.", there=", ".join(known),
                                      try_=nearest(name, known))  # fmt: skip

    @property
    def slots(self) -> dict[str, tuple[str, ...]]:
        """What is chosen, and from what."""
        first = {"unary_1": self.unary, "unary_2": self.unary, "binary_1": self.binary}
        if self.cores == 1:
            return first
        return first | {"unary_3": self.unary, "unary_4": self.unary, "binary_2": self.binary, "inputs": _INPUTS}

    @property
    def size(self) -> int:
        """How many expressions it has, equal ones included."""
        return prod(map(len, self.slots.values()))

    def expression(self, choices: Choices) -> Expression:
        """The expression of these choices."""
        core = _core(choices["binary_1"], _unary(choices["unary_1"], X), _unary(choices["unary_2"], X))
        if self.cores == 1:
            return core
        left, right = (core if source == "core" else X for source in choices["inputs"].split(", "))
        return _core(choices["binary_2"], _unary(choices["unary_3"], left), _unary(choices["unary_4"], right))

    def __iter__(self) -> Iterator[dict[str, str]]:
        """All choices."""
        return (dict(zip(self.slots, chosen, strict=True)) for chosen in product(*self.slots.values()))

    def distinct(self, learn: bool) -> list[dict[str, str]]:
        """The choices of one expression for every distinct function that is fit as an activation, always in one order.

        Raises:
            BadValue: the space is too large to be listed.
        """
        if self.size > _MOST_LISTED:
            raise BadValue(
                f"The space {self.name} is too large to be listed.", asked=f"{self.size:,} expressions",
                there=f"at most {_MOST_LISTED:,}", try_="the engine evolution or tpe, or fewer functions",
            )  # fmt: skip
        return list(_distinct(self, learn))


@lru_cache(maxsize=8)
def _distinct(space: Space, learn: bool) -> tuple[dict[str, str], ...]:
    choices = {space.expression(chosen): chosen for chosen in space}
    return tuple(choices[expression] for expression in distinct(choices, learn).values())


def _unary(name: str, inner: Expression) -> Expression:
    return inner if name == INPUT else Expression(name, (inner,) * OPERATORS[name].arity)


def _core(name: str, left: Expression, right: Expression) -> Expression:
    return left if name in _EQUAL_IF_SAME and left == right else Expression(name, (left, right))


SPACES = {
    space.name: space
    for space in (
        Space("one-core", about="All functions of one core unit of the paper: 25 x 25 x 10 expressions."),
        Space("two-core", cores=2, about="All functions of two core units of the paper."),
    )
}


def space_of(name: str | Path | Space) -> Space:
    """The space of this name, or that in a TOML file.

    A file has `format = 1` and any of `about`, `cores` (1 or 2), `unary` and `binary`, lists of names of functions.

    Raises:
        UnknownName: there is no such space, or the file names a function that does not exist.
        BadFile: the file cannot be read, or is not a space.
    """
    if isinstance(name, Space):
        return name
    if not str(name).endswith(".toml"):
        if str(name) not in SPACES:
            raise UnknownName(f"No space is named {name!s}.", there=", ".join(SPACES),
                              try_=nearest(str(name), SPACES) or "a file that ends in .toml")  # fmt: skip
        return SPACES[str(name)]
    path = Path(name)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is not TOML: {error}") from error
    return _read(path, given)


def _read(path: Path, given: Mapping[str, Any]) -> Space:
    unknown = [key for key in given if key not in _KEYS]
    if unknown or given.get("format") != FORMAT:
        asked = f"the key {unknown[0]!r}" if unknown else f"format = {given.get('format')!r}"
        raise BadFile(f"{path} is not a space.", asked=asked, there=", ".join(_KEYS), try_=f"format = {FORMAT}")
    lists = {key: given[key] for key in ("unary", "binary") if key in given}
    for key, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadFile(f"In {path}, `{key}` is not a list of names.", asked=repr(names))
    try:
        return Space(path.stem, given.get("cores", 1), **{key: tuple(names) for key, names in lists.items()},
                     about=str(given.get("about", "")))  # fmt: skip
    except (UnknownName, BadValue) as error:
        raise type(error)(f"In {path}: {error}") from error
