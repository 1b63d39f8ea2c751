"""Report of a simplification: what each learned function was, what it became, and how far that is from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from surgery.look.site import Site
from surgery.plan.report import Report
from surgery.text import html_table, table

_COLUMNS = ("site", "was", "becomes", "error", "operators", "")


@dataclass(frozen=True)
class Simplified:
    """One call of a learned function: what it `was` and `became`, the same with the `reason` if it was left alone.

    `error` is the root mean square of the difference over the standard deviation of the output of the channel where
    that is largest, on the calibration batches. `before` and `after` are the operators of the exported functions.
    """

    site: Site
    was: str
    became: str
    before: int
    after: int
    error: float = 0.0
    reason: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        if self.reason:
            return str(self.site), self.was, "-", "-", str(self.before), self.reason
        return str(self.site), self.was, self.became, f"{self.error:.2g}", f"{self.before} -> {self.after}", ""


@dataclass(frozen=True, eq=False, repr=False)
class Simplification:
    """Every call of a learned function, in order of execution, and the report of the edit; None if nothing changed."""

    calls: tuple[Simplified, ...]
    tolerance: float
    edit: Report | None = None

    @property
    def changed(self) -> tuple[Simplified, ...]:
        """The calls that compute a cheaper function now."""
        return tuple(call for call in self.calls if not call.reason)

    @property
    def before(self) -> int:
        """The operators of all learned functions before."""
        return sum(call.before for call in self.calls)

    @property
    def after(self) -> int:
        """The operators of what they became."""
        return sum(call.after for call in self.calls)

    def to_json(self) -> str:
        """All calls as one JSON object."""
        names = ("was", "became", "error", "before", "after", "reason")
        calls = [{"site": str(call.site)} | {name: getattr(call, name) for name in names} for call in self.calls]
        return json.dumps({"tolerance": self.tolerance, "calls": calls}, indent=1)

    def __repr__(self) -> str:
        return f"<Simplification: {self._head()}>"

    def __str__(self) -> str:
        return "\n".join([self._head(), *(f"  {line}" for line in table(_COLUMNS, self._rows()))])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), above=[self._head()])

    def _head(self) -> str:
        done = f"{len(self.changed)} of {len(self.calls)} learned functions simplified within {self.tolerance:g}"
        return f"{done}; {self.before} operators become {self.after}"

    def _rows(self) -> Sequence[tuple[str, ...]]:
        return [call.row for call in self.calls]
