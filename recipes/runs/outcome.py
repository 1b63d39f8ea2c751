"""Outcome: the measurements of a network before and after a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from recipes.data.preprocessing import Preprocessing
from recipes.format.parse import versions as installed
from recipes.runs.evaluate import Measured
from recipes.runs.evaluate import measure as measure
from surgery import Report
from surgery.activations import row_of
from surgery.errors import BadFile, SurgeryError
from surgery.look.site import BLOCK, NO_CALL
from surgery.text import table

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A network before and after a run; prints as a table.

    `model` is its full name, `recipe` and `data` are names. `erased`, `swapped` and `added` count activation calls,
    `dropped` residual blocks. `versions` are those of the libraries it was measured with, `preprocessing` that of its
    images (see `recipes.data.Preprocessing`; empty if not recorded), `seconds` the duration of the run.
    """

    model: str
    recipe: str
    data: str
    before: Measured
    after: Measured
    erased: int = 0
    swapped: int = 0
    added: int = 0
    seconds: float = 0.0
    versions: Mapping[str, str | int] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    dropped: int = 0

    @classmethod
    def of(
        cls,
        model: str,
        recipe: str,
        data: str,
        before: Measured,
        after: Measured,
        report: Report | None,
        seconds: float,
        preprocessing: Preprocessing | None = None,
    ) -> Outcome:
        """The outcome of a run with the surgery of `report` (None: no surgery), after all gradual changes.

        Paths are reduced to their last part, since an outcome may be published.
        """
        model, recipe, data = map(_without_folders, (model, recipe, data))
        erased, swapped, added = _counts(report)
        fed = {} if preprocessing is None else preprocessing.facts()
        edits = report.plan.edits if report is not None else ()
        dropped = sum(edit.make == "dropped" for edit in edits)
        return cls(model, recipe, data, before, after, erased, swapped, added, seconds, installed(), fed, dropped)

    def facts(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"format": FORMAT} | asdict(self)

    def to_json(self) -> str:
        """The same as JSON text, for `from_json`."""
        return json.dumps(self.facts(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that `to_json` wrote.

        Raises:
            BadFile: the text is not an outcome, is damaged, or was written by a newer version.
        """
        try:
            given = json.loads(text)
            if given.pop("format") != FORMAT:
                raise ValueError(f"a format that is not {FORMAT}")
            given = {"preprocessing": {}, "dropped": 0} | given  # which version 0.1 did not record
            before, after = (_checked(Measured, given.pop(name)) for name in ("before", "after"))
            made: Outcome = _checked(cls, given | {"before": before, "after": after})
            Preprocessing().changed(made.preprocessing)
        except (SurgeryError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadFile(
                "This is not the outcome of a run.",
                asked=f"{type(error).__name__}: {error}",
                try_="another result.json",
            ) from error
        return made

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """The rows of the table: a label, before, after."""
        lines = [(label, *(form(getattr(measured, name)) for measured in (self.before, self.after)))
                 for name, (label, form) in _LINES.items()]  # fmt: skip
        counts = [("calls erased", self.erased), ("calls swapped", self.swapped)]
        counts += [("activations added", self.added)] if self.added else []
        counts += [("blocks dropped", self.dropped)] if self.dropped else []
        return (*lines[:4], *((label, "-", str(count)) for label, count in counts), *lines[4:])

    def to_markdown(self) -> str:
        """The table for a model card, or a README."""
        lines = [f"| {' | '.join(row)} |" for row in self.rows()]
        return "\n".join(["| | before | after |", "|---|---:|---:|", *lines])

    def __str__(self) -> str:
        with_ = ", ".join(f"{name} {version}" for name, version in self.versions.items() if name != "format")
        last = f"{self.recipe} on {self.model} with {self.data}: {self.seconds:.0f} s"
        lines = table(("", "before", "after"), self.rows())
        return "\n".join([*lines, last + (f"; {with_}" if with_ else "")])


def _counts(report: Report | None) -> tuple[int, int, int]:
    """How many calls were erased (including by fading), swapped, and added."""
    edits = [edit for edit in report.plan.edits if edit.site.activation != BLOCK] if report is not None else []
    added = [edit for edit in edits if edit.site.activation == NO_CALL]
    erased = [edit for edit in edits if edit not in added and row_of(edit.make).role == "linear"]
    return len(erased), len(edits) - len(erased) - len(added), len(added)


def _checked(kind: Any, given: Mapping[str, Any]) -> Any:
    """A dataclass of exactly these values, each of the type of its field.

    Raises:
        ValueError, TypeError: with what is wrong.
    """
    for part in fields(kind):
        if type(given[part.name]).__name__ not in _KINDS.get(str(part.type), (str(part.type),)):
            raise ValueError(f"{part.name} is {given[part.name]!r}")
    return kind(**given)


def _without_folders(name: str) -> str:
    return PurePath(name).name if name.startswith(("/", ".", "~")) else name


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _many(value: float) -> str:
    """A count with three significant digits, such as "1.82 G"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.3g}"


_KINDS = {
    "float": ("float", "int"), "float | None": ("float", "int", "NoneType"), "Mapping[str, str | int]": ("dict",),
    "Mapping[str, Any]": ("dict",),
}  # fmt: skip
_LINES: dict[str, tuple[str, Any]] = {
    "accuracy": ("accuracy", _share),
    "parameters": ("parameters", "{:,}".format),
    "living": ("density of the weights", _share),
    "flops": ("FLOPs per image", _many),
    "dead_dynamic": ("dead channels (dynamic)", _share),
    "dead_static": ("dead channels (static)", _share),
    "images_s": ("images/s", _speed),
}
