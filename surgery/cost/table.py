"""Latency table: what blocks of a network take, as they are and after each action, as a data file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from surgery.cost.action import Action
from surgery.cost.conditions import Conditions
from surgery.cost.stopwatch import Timing
from surgery.errors import BadFile
from surgery.files import write_text
from surgery.text import html_table, table

FORMAT = 1
NETWORK = "network"
_COLUMNS = ("place", "action", "ms", "median", "speedup")


@dataclass(frozen=True, slots=True)
class Row:
    """The time of a place after an action, `what`: "keep" is how it is."""

    place: str
    what: str
    timing: Timing


@dataclass(eq=False, repr=False)
class LatencyTable:
    """The times of the blocks and calls of a network, each alone, and of the whole network, in deployed form.

    A row is kept by the name of its place and action, and with a `path` written to that file at once. What a call takes
    is read off the block around it: "erase layer1.0.relu" is the time of layer1.0 with that call erased.
    """

    model: str
    conditions: Conditions
    rows: dict[str, Row] = field(default_factory=dict)
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def put(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Add rows by their names, and write the file if there is one."""
        self.rows |= dict(rows)
        if self.path is not None:
            self.save(self.path)

    @property
    def network(self) -> Timing:
        """The time of the whole network."""
        return self.rows[kept(NETWORK)].timing

    def saved(self, action: Action) -> float | None:
        """How many milliseconds an action saves, 0 unless minimum and median agree; None if it was not timed."""
        row = self.rows.get(str(action))
        before = None if row is None else self.rows.get(kept(row.place))
        if row is None or before is None:
            return None
        return before.timing.ms - row.timing.ms if row.timing.faster_than(before.timing) else 0.0

    def site_values(self) -> tuple[str, dict[str, float]]:
        """The milliseconds of each call and each block as it is, which `draw` shows as bars."""
        timed = (row for row in self if row.what == "keep" and row.place != NETWORK)
        return "ms", {row.place: row.timing.ms for row in timed}

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(path), self.to_json() + "\n")

    def to_json(self) -> str:
        """The table as a JSON object."""
        rows = {
            name: {"place": row.place, "what": row.what} | asdict(row.timing) for name, row in self.rows.items()
        }  # fmt: skip
        data = {"format": FORMAT, "model": self.model, "conditions": self.conditions.to_data(), "rows": rows}
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """The table of `to_json`.

        Raises:
            BadFile: the text is none.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, not {FORMAT}")
            rows = {
                name: Row(row["place"], row["what"], Timing(float(row["ms"]), float(row["median"]), int(row["rounds"])))
                for name, row in data["rows"].items()
            }
            return cls(str(data["model"]), Conditions.from_data(data["conditions"]), rows)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadFile("This is not a latency table.", asked=f"{type(error).__name__}: {error}"[:100]) from error

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """The table in a file, which later rows are not written to.

        Raises:
            BadFile: there is none.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"{path} cannot be read.", asked=type(error).__name__) from error
        return cls.from_json(text)

    def __repr__(self) -> str:
        return f"<LatencyTable: {self._head()}>"

    def __str__(self) -> str:
        return "\n".join([self._head(), *(f"  {line}" for line in table(_COLUMNS, self._cells()))])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._cells(), above=[self._head()])

    def _head(self) -> str:
        return f"{len(self)} times of {self.model}; {self.conditions}"

    def _cells(self) -> list[tuple[str, ...]]:
        return [self._row(name, row) for name, row in self.rows.items()]

    def _row(self, name: str, row: Row) -> tuple[str, ...]:
        before, ms = self.rows.get(kept(row.place)), row.timing.ms
        speedup = f"{before.timing.ms / ms:.2f}x" if before is not None and ms else "-"
        what = name.removeprefix(f"{row.what} ")
        return (
            row.place, row.what if what == row.place else f"{row.what} {what}", f"{ms:.4f}",
            f"{row.timing.median:.4f}", "" if row.what == "keep" else speedup,
        )  # fmt: skip


def kept(place: str) -> str:
    """The name of the row of a place as it is."""
    return f"keep {place}"
