"""Report of a deployment: whether a network agrees with torch on its target, and what became of each site."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from surgery.deploy.comparison import Compared
from surgery.deploy.probe import Probed
from surgery.look.site import Site
from surgery.text import html_table, table

_COLUMNS = ("site", "function", "becomes", "error", "swap for")


@dataclass(frozen=True, slots=True)
class SiteResult:
    """What becomes of one site: what the target makes of its function, and what to swap it for, if anything."""

    site: Site
    result: Probed
    swap_for: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        error = "-" if self.result.error is None else f"{self.result.error:.2g}"
        return (str(self.site), self.site.activation, str(self.result), error, self.swap_for or "-")


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What a target makes of a network; prints as a table of its sites.

    `sites` say of each activation call in eval mode what became of it. `runs` are the forwards on the target, compared
    with torch; empty if it could not be converted, or run (`problem`), or cannot be run here (`not_run`). `any_batch`:
    it was written for every batch size, else for one, and batches were run one by one. `operators` are those of the
    whole network. `ok`: it was run, and agrees with torch in every run.
    """

    target: str
    versions: str
    model_kind: str
    sites: tuple[SiteResult, ...]
    runs: tuple[Compared, ...] = ()
    any_batch: bool = False
    operators: tuple[str, ...] = ()
    problem: str = ""
    not_run: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.runs) and all(run.agrees for run in self.runs)

    @property
    def error(self) -> float:
        """The largest error of all runs, over the largest output; infinite if there is none."""
        return max((run.relative for run in self.runs), default=float("inf"))

    def to_json(self) -> str:
        """All of it as one JSON object; an error that is not finite is null, and its verdict "wrong"."""
        sites = [
            {
                "site": str(call.site),
                "function": call.site.activation,
                "verdict": call.result.verdict,
                "operators": call.result.operators,
                "error": _finite(call.result.error),
                "problem": call.result.problem,
                "swap_for": call.swap_for or None,
            }
            for call in self.sites
        ]
        runs = [
            {"inputs": run.inputs, "batch": run.batch, "error": _finite(run.error), "largest_output": run.largest}
            for run in self.runs
        ]
        facts: dict[str, Any] = {
            "target": self.target, "versions": self.versions, "model": self.model_kind, "ok": self.ok,
            "problem": self.problem, "not_run": self.not_run, "any_batch": self.any_batch, "runs": runs,
            "sites": sites, "operators": dict(Counter(self.operators)),
        }  # fmt: skip
        return json.dumps(facts, indent=1)

    def __repr__(self) -> str:
        return f"<Report: {self._verdict()}>"

    def __str__(self) -> str:
        rows = [f"  {line}" for line in table(_COLUMNS, self._rows())] if self.sites else []
        return "\n".join([self._verdict(), *rows, *(f"  {line}" for line in self._notes())])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), above=[self._verdict()], below=self._notes())

    def _rows(self) -> list[tuple[str, ...]]:
        return [call.row for call in self.sites]

    def _verdict(self) -> str:
        if self.problem:
            what = "converted, cannot be run" if self.operators else "not converted"
            return f"{self.model_kind} on {self.target}: {what}"
        if self.not_run:
            return f"{self.model_kind} on {self.target}: converted, not run ({self.not_run})"
        verdict = "agrees with torch" if self.ok else "does not agree with torch"
        return f"{self.model_kind} on {self.target}: {verdict}, maximum error {self.error:.2g} of the largest output"

    def _notes(self) -> list[str]:
        problems = dict.fromkeys(
            (call.site.activation, call.result.problem) for call in self.sites if call.result.problem
        )
        notes = [f"{name} fails: {problem}" for name, problem in problems] or [self.problem] * bool(self.problem)
        if self.runs:
            batches = ", ".join(str(batch) for batch in sorted({run.batch for run in self.runs}))
            how = "batches" if self.any_batch else "one image at a time, from batches"
            notes.append(f"run on {len(self.runs)} inputs, {how} of {batches}")
        if self.operators:
            counts = Counter(self.operators).most_common()
            notes.append("network: " + ", ".join(f"{count} {name}" for name, count in counts))
        return [*notes, f"with {self.versions}"]


def _finite(error: float | None) -> float | None:
    """What JSON can hold."""
    return error if error is not None and math.isfinite(error) else None
