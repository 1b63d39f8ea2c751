"""Front: what a search found, accuracy against the time that a function takes, beside ReLU and Swish."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from surgery.activations import build, row_of
from surgery.cost.stopwatch import in_turns
from surgery.files import write_text
from surgery.text import html_table, table

CANDIDATES, FRONT = "candidates.csv", "front.json"

_SHAPE = (64, 64, 8, 8)  # of the tensor that functions are timed on: a batch of a small network
_ROUNDS = 5
_SHOWN = 10
_COLUMNS = ("function", "accuracy", "on others", "ms", "")


@dataclass(frozen=True, slots=True)
class Found:
    """A function with its accuracies, fractions, and the milliseconds of one call.

    `accuracy` is the mean over the seeds on the images that candidates are chosen on, `error` its standard error (None
    for one seed), `reported` the mean on other images. `best` says whether it is on the front, on which nothing else is
    as accurate and as fast.
    """

    function: str
    accuracy: float
    error: float | None
    reported: float
    ms: float
    reference: bool = False
    best: bool = False

    @property
    def formula(self) -> str:
        """What it computes."""
        return row_of(self.function).formula


@dataclass(frozen=True)
class Front:
    """The functions that a search trained, the most accurate first, and what became of the other candidates."""

    found: tuple[Found, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def best(self) -> tuple[Found, ...]:
        """Those that no other one beats, the fastest first."""
        return tuple(sorted((found for found in self.found if found.best), key=lambda found: found.ms))

    def __str__(self) -> str:
        cells = self._cells()
        return "\n".join([self._summary(), *(table(_COLUMNS, cells) if cells else [])])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._cells(), above=[self._summary()])

    def _summary(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.counts.items())

    def _cells(self) -> list[tuple[str, ...]]:
        """Those of the most accurate functions, of the front, and of the references."""
        shown = (found for k, found in enumerate(self.found) if k < _SHOWN or found.best or found.reference)
        return [_cells(found) for found in shown]

    def to_json(self) -> str:
        """All of it as JSON."""
        rows = [asdict(found) | {"formula": found.formula} for found in self.found]
        return json.dumps({"counts": dict(self.counts), "found": rows}, indent=1)

    def write(self, folder: Path) -> None:
        """Write `candidates.csv` and `front.json` into a folder."""
        text = io.StringIO()
        writer = csv.DictWriter(text, Found.__dataclass_fields__, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(found) for found in self.found)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CANDIDATES, text.getvalue())
        write_text(folder / FRONT, self.to_json() + "\n")


Accuracies = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # of each function: on the ones, on the others


def front_of(candidates: Accuracies, references: Accuracies, counts: Mapping[str, int]) -> Front:
    """The front of functions with their accuracies, each with one for every seed; it times them in turns."""
    times = times_of([*candidates, *references])
    found = [
        Found(name, fmean(chosen), _error(chosen), fmean(reported), times[name], name in references)
        for name, (chosen, reported) in {**candidates, **references}.items()
    ]
    ranked = sorted(found, key=lambda one: (-one.accuracy, one.ms))
    return Front(tuple(_marked(ranked)), counts)


def times_of(functions: Iterable[str]) -> dict[str, float]:
    """Milliseconds of one call of each function on a tensor of 64 x 64 x 8 x 8, without gradients, in turns."""
    x = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    modules = {name: build(name, channels=_SHAPE[1]) for name in functions}
    with torch.no_grad():
        calls = {name: (lambda module=module: module(x)) for name, module in modules.items()}
        return {name: timing.ms for name, timing in in_turns(calls, _ROUNDS, x.device).items()}


def _marked(ranked: Sequence[Found]) -> Iterable[Found]:
    """Functions, the most accurate first, with those marked that are faster than all before them."""
    fastest = float("inf")
    for found in ranked:
        yield found if found.ms >= fastest else _best(found)
        fastest = min(fastest, found.ms)


def _best(found: Found) -> Found:
    facts: dict[str, Any] = asdict(found)
    return Found(**facts | {"best": True})


def _error(accuracies: Sequence[float]) -> float | None:
    return stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else None


def _cells(found: Found) -> tuple[str, ...]:
    error = "" if found.error is None else f" ± {found.error:.2%}"
    marks = [word for word, holds in (("front", found.best), ("reference", found.reference)) if holds]
    return (
        found.function, f"{found.accuracy:.2%}{error}", f"{found.reported:.2%}", f"{found.ms:.3f}", ", ".join(marks)
    )  # fmt: skip
