"""CSV log: one row per epoch of a run, in a CSV file that survives a kill."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from surgery.errors import BadFile, BadValue, nearest

LOG = "log.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One epoch, counted from 0 in its phase; None where a number was not measured.

    `loss` is the mean over the epoch, `top1` the accuracy on the test images after it, `lr` the learning rate,
    `images_s` training images per second, `living` the density of the prunable weights.
    """

    phase: str
    epoch: int
    loss: float | None = None
    top1: float | None = None
    lr: float | None = None
    images_s: float | None = None
    living: float | None = None

    @classmethod
    def of(cls, phase: str, epoch: int, numbers: Mapping[str, float]) -> Row:
        """The row of an epoch.

        Raises:
            BadValue: a number that the log has no column for.
        """
        if unknown := sorted(set(numbers) - set(NUMBERS)):
            raise BadValue(
                "Unknown column of the log.", asked=", ".join(unknown), there=", ".join(NUMBERS),
                try_=nearest(unknown[0], NUMBERS),
            )  # fmt: skip
        return cls(phase, epoch, **{name: float(value) for name, value in numbers.items()})

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that were taken, by column."""
        found = {name: getattr(self, name) for name in NUMBERS}
        return {name: value for name, value in found.items() if value is not None}


COLUMNS = tuple(field.name for field in fields(Row))
NUMBERS = COLUMNS[2:]


@dataclass(frozen=True, slots=True)
class Log:
    """A CSV file with a line per epoch, which survives a kill: an incomplete last line is ignored."""

    path: Path

    def rows(self) -> tuple[Row, ...]:
        """The rows, in the order they were written; empty without a file.

        Raises:
            BadFile: it is not a log of this library, or damaged.
        """
        try:
            return _rows(self.path.read_bytes()) if self.path.exists() else ()
        except (csv.Error, ValueError, OSError) as error:
            raise BadFile(
                f"{self.path} is not the log of a run.", asked=str(error), try_="another folder, or without this file"
            ) from error

    def begin(self, phase: str, epoch: int = 0) -> int:
        """Drop the rows of this phase from `epoch` on, which will be written again; return the number of rows left.

        Raises:
            BadFile: as `rows`; the file stays as it is.
        """
        kept = tuple(row for row in self.rows() if row.phase != phase or row.epoch < epoch)
        text = _text([COLUMNS, *map(astuple, kept)]).encode()
        if not self.path.exists() or self.path.read_bytes() != text:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.with_name(f"{self.path.name}.tmp")
            half.write_bytes(text)
            os.replace(half, self.path)
        return len(kept)

    def append(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        with self.path.open("ab") as file:
            file.write(_text([astuple(row)]).encode())


def _text(rows: Iterable[tuple[object, ...]]) -> str:
    """The rows as lines of CSV, which are read back exactly."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows(rows)
    return made.getvalue()


def _rows(data: bytes) -> tuple[Row, ...]:
    """The rows of all complete lines.

    Raises:
        ValueError, csv.Error: with what is wrong.
    """
    whole = data[: data.rfind(b"\n") + 1].decode()
    if not whole:
        if not _text([COLUMNS]).encode().startswith(data):
            raise ValueError(f"{len(data)} bytes without the line {','.join(COLUMNS)}")
        return ()
    head, *lines = csv.reader(io.StringIO(whole, newline=""), strict=True)
    if tuple(head) != COLUMNS:
        raise ValueError(f"the columns {','.join(head)}")
    return tuple(_row(number, line) for number, line in enumerate(lines, 2))


def _row(number: int, line: list[str]) -> Row:
    if len(line) != len(COLUMNS):
        raise ValueError(f"line {number} has {len(line)} cells, not {len(COLUMNS)}")
    phase, epoch, *cells = line
    values = [float(cell) if cell else None for cell in cells]
    return Row(phase, int(epoch), *values)
