"""Report: what merging did: which layers were made of which, how exact they are, and what they save."""

from __future__ import annotations

import json
from dataclasses import dataclass

from surgery.merging.groups import LinearGroup
from surgery.text import counted, html_table, table

_HEAD = ("layer", "kind", "of", "kernel", "MACs", "merged", "parameters", "merged", "error")


@dataclass(frozen=True, slots=True)
class MergedGroup:
    """One merged group: its parameters before and after, and its maximum relative errors.

    `exact` is that of the kernel, in float64; `error` that of the layer in the dtype of the model.
    """

    group: LinearGroup
    parameters_before: int
    parameters_after: int
    exact: float
    error: float

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its row in a table."""
        group = self.group
        kernel = "x".join(map(str, group.kernel)) or "linear"
        numbers = (group.macs_before, group.macs_after, self.parameters_before, self.parameters_after)
        return (group.path, group.kind, f"{len(group.layers)} layers", kernel,
                *(f"{number:,}" for number in numbers), f"{self.error:.1e}")  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class MergeReport:
    """What was merged, and what was not; prints as a table.

    `error` is the maximum error of the model's outputs on random numbers, relative to the largest output.
    """

    merged: tuple[MergedGroup, ...]
    refused: tuple[LinearGroup, ...]
    error: float

    @property
    def macs(self) -> tuple[int, int]:
        """The multiplications of the merged groups for one sample, before and after."""
        groups = [row.group for row in self.merged]
        return sum(group.macs_before for group in groups), sum(group.macs_after for group in groups)

    @property
    def parameters(self) -> tuple[int, int]:
        """The parameters of the merged groups, before and after."""
        return sum(row.parameters_before for row in self.merged), sum(row.parameters_after for row in self.merged)

    @property
    def exact(self) -> float:
        """The maximum relative error of a kernel in float64."""
        return max((row.exact for row in self.merged), default=0.0)

    def to_json(self) -> str:
        """The rows as one JSON object."""
        rows = [
            {"layer": row.group.path, "kind": row.group.kind, "of": list(row.group.layers),
             "macs": [row.group.macs_before, row.group.macs_after],
             "parameters": [row.parameters_before, row.parameters_after], "exact": row.exact, "error": row.error}
            for row in self.merged
        ]  # fmt: skip
        refused = [{"layer": group.path, "of": list(group.layers), "reason": group.reason} for group in self.refused]
        return json.dumps({"merged": rows, "refused": refused, "error": self.error}, indent=1)

    def __repr__(self) -> str:
        return f"<MergeReport: {self._summary()}>"

    def __str__(self) -> str:
        rows = table(_HEAD, [row.row for row in self.merged])
        return "\n".join([self._summary(), *(f"  {line}" for line in (*rows, *self._remarks()))])

    def _repr_html_(self) -> str:
        return html_table(_HEAD, [row.row for row in self.merged], above=[self._summary()], below=self._remarks())

    def _summary(self) -> str:
        before, after = self.macs
        layers = sum(len(row.group.layers) for row in self.merged)
        return (f"{layers} layers merged into {len(self.merged)}, with {before:,} MACs before and {after:,} after; "
                f"the outputs differ by {self.error:.1e}")  # fmt: skip

    def _remarks(self) -> list[str]:
        return [f"not merged: {line}" for line in counted(group.reason for group in self.refused)]
