"""Options: settings declared once as dataclass fields, from which files, flags and messages are derived.

The command line shows them in its help, which must start fast: this file and `settings` import nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its help text, type and range. `kind` is bool, int, float or str."""

    about: str
    kind: type
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    empty: bool = False  # whether it may be left unset

    def problem(self, value: object) -> str:
        """What is wrong with `value`; "" if nothing."""
        if value is None and self.empty:
            return ""
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            return f"is {_NAMES[self.kind]}, not {value!r}"
        if self.choices and value not in self.choices:
            from surgery.errors import nearest

            near = nearest(str(value), self.choices)
            return f"is one of {', '.join(self.choices)}, not {value!r}" + (f" (near: {near})" if near else "")
        if self.kind is bool or self.kind is str:
            return ""
        assert isinstance(value, int | float)
        if not float("-inf") < value < float("inf"):
            return f"is finite, not {value!r}"
        if self.least is not None and value < self.least:
            return f"is at least {_bound(self.least)}, not {value!r}"
        if self.most is not None and value > self.most:
            return f"is at most {_bound(self.most)}, not {value!r}"
        return ""


def option(
    default: Value,
    about: str,
    *,
    kind: type | None = None,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a frozen dataclass as an option; with the default None it may be unset, and needs `kind`."""
    made = Option(about, kind or type(default), least, most, choices, empty=default is None)
    return field(default=default, metadata={"option": made})


def options_of(kind: type) -> dict[str, Option]:
    """The options of a dataclass, by name."""
    return {part.name: part.metadata["option"] for part in fields(kind)}


def problems_of(kind: type, given: Mapping[str, object]) -> list[str]:
    """Every problem of settings for `kind`: unknown names with the nearest known one, wrong types, ranges."""
    known = options_of(kind)
    found = []
    for name, value in given.items():
        if name not in known:
            from surgery.errors import nearest

            near = nearest(name, known)
            found.append(f"{name}: unknown option" + (f"; near: {near}" if near else ""))
        elif problem := known[name].problem(value):
            found.append(f"{name} {problem}")
    return found


def check_options(settings: object) -> None:
    """Check that the values of a dataclass of options are in range; for `__post_init__`.

    Raises:
        BadValue: all of them, in one message.
    """
    given = {name: getattr(settings, name) for name in options_of(type(settings))}
    if found := problems_of(type(settings), given):
        from surgery.errors import BadValue

        raise BadValue(f"{type(settings).__name__}: {'; '.join(found)}.")


def _bound(value: float) -> str:
    """A bound as text: integers without decimals, however large."""
    return str(value) if isinstance(value, int) else f"{value:g}"


_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
