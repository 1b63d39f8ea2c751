"""Support: what each function of the catalogue becomes on each deployment target, as measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from surgery.errors import BadValue, UnknownName, nearest
from surgery.text import html_table, table

FILE = "support.json"
OPERATOR, PIECES, WRONG, FAILS, FLOAT = "one operator", "decomposed", "wrong", "fails", "in float"
_FEW = 4

# The facts of a cell that a table is filtered by, with their values; empty where the table has names of its own.
_WORDS: dict[str, tuple[str, ...]] = {
    "function": (), "target": (), "precision": ("fp32", "fp16", "int8"), "layout": ("image", "tokens"),
    "verdict": (OPERATOR, PIECES, WRONG, FAILS, FLOAT),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One function on one target: what it becomes there, in one precision and layout.

    `verdict` is "one operator", "decomposed", "wrong" or "fails"; `operators` are those it becomes, in order; `error`
    is its maximum error against torch, None where the target could not be run; `problem` says why it fails.
    `layout` is "image", (N, C, H, W), or "tokens", (N, T, C); `precision` "fp32", "fp16" or "int8". In int8 it stands
    between two convolutions, may vanish into the first, and "in float" says that it is computed in float.
    """

    function: str
    target: str
    precision: str
    layout: str
    verdict: str
    operators: tuple[str, ...]
    error: float | None
    problem: str

    def __str__(self) -> str:
        """What it becomes, as short as a table wants it: its one operator, or how many it takes."""
        return self._text(most=1)

    @property
    def summary(self) -> str:
        """What it becomes: its operators, of more than a few the number."""
        return self._text(most=_FEW)

    @property
    def details(self) -> str:
        """All that is known: every operator, how far it is wrong, why it fails."""
        text = self._text(most=len(self.operators))
        return f"{text}: {self.problem}" if self.problem else text

    def _text(self, most: int) -> str:
        if self.verdict == FAILS:
            return FAILS
        count = len(self.operators)
        names = " + ".join(self.operators) or "nothing"
        text = names if count <= max(most, 1) else f"{count} operators"
        if self.verdict == WRONG:
            return f"{text}, wrong by {self.error:.2g}"
        return f"{text}, in float" if self.verdict == FLOAT else text


@dataclass(frozen=True, eq=False, repr=False)
class Support:
    """Function by target; prints as a table. `measured` says for each target with which versions and when."""

    cells: tuple[Cell, ...]
    measured: dict[str, str]
    everything: tuple[Cell, ...] = ()  # what it was filtered from

    def cell(self, function: str, target: str, *, precision: str = "fp32", layout: str = "image") -> Cell | None:
        """What a function becomes on a target; None where that was not measured."""
        asked = (function, target, precision, layout)
        found = (cell for cell in self.cells if (cell.function, cell.target, cell.precision, cell.layout) == asked)
        return next(found, None)

    def lines_of(self, function: str) -> list[str]:
        """What a function becomes on each target, on images in single precision: "ncnn: GELU"."""
        cells = self.matching(function=function, precision="fp32", layout="image")
        return [f"{cell.target}: {cell.summary}" for cell in cells]

    def matching(self, **facts: str) -> tuple[Cell, ...]:
        """The cells with these facts; none where nothing was measured."""
        return tuple(cell for cell in self.cells if all(getattr(cell, key) == value for key, value in facts.items()))

    def where(self, **facts: str) -> Support:
        """Only the cells with these facts, such as `where(target="ncnn", verdict="fails")`.

        Keys are `function`, `target`, `precision`, `layout` and `verdict`.

        Raises:
            BadValue: another key.
            UnknownName: a function or a target that is not in the table, or another word that it does not use.
        """
        for key, value in facts.items():
            self._check_known(key, value)
        return replace(self, cells=self.matching(**facts), everything=self.everything or self.cells)

    def _check_known(self, key: str, value: str) -> None:
        if key not in _WORDS:
            there, hint = ", ".join(_WORDS), nearest(key, _WORDS)
            raise BadValue(f"{key!r} is not a fact of a cell.", there=there, try_=hint)
        known = _WORDS[key] or tuple(dict.fromkeys(getattr(cell, key) for cell in self.everything or self.cells))
        if value not in known:
            raise UnknownName(
                f"No cell has the {key} {value!r}.", there=", ".join(known), try_=nearest(str(value), known)
            )

    def to_json(self) -> str:
        """All cells as JSON, one in a line."""
        cells = ",\n".join(json.dumps({name: getattr(cell, name) for name in Cell.__slots__}) for cell in self.cells)
        return f'{{"measured": {json.dumps(self.measured)},\n"cells": [\n{cells}\n]}}'

    def __repr__(self) -> str:
        return f"<Support: {len(self.cells)} cells of {len(self._targets())} targets>"

    def __str__(self) -> str:
        return "\n".join([*table(self._head(), self._rows()), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(self._head(), self._rows(), below=self._notes())

    def _targets(self) -> list[str]:
        return list(dict.fromkeys(cell.target for cell in self.cells))

    def _head(self) -> tuple[str, ...]:
        return ("function", "precision", "layout", *self._targets())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = dict.fromkeys((cell.function, cell.precision, cell.layout) for cell in self.cells)
        by_key = {(cell.function, cell.precision, cell.layout, cell.target): str(cell) for cell in self.cells}
        return [(*row, *(by_key.get((*row, target), "-") for target in self._targets())) for row in rows]

    def _notes(self) -> list[str]:
        return [f"{name}: {self.measured[name]}" for name in self._targets()]


@cache
def support() -> Support:
    """What each function of the catalogue becomes on each target: a table that was measured with these runtimes.

    >>> print(surgery.deploy.table().where(target="ncnn"))
    """
    return support_of(json.loads(files("surgery.activations").joinpath(FILE).read_text(encoding="utf-8")))


def support_of(data: dict[str, Any]) -> Support:
    """The table that `Support.to_json` wrote."""
    cells = tuple(Cell(**{**entry, "operators": tuple(entry["operators"])}) for entry in data["cells"])
    return Support(cells, data["measured"])
