"""Jobs of a study: one file of rows for every arm and seed, written as they come, so that a study can be stopped."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conditions import RESULTS

Row = Mapping[str, float]
Write = Callable[[Row], None]


@dataclass(frozen=True)
class Protocol:
    """How much a study does. `smoke` shows that the commands run; its rows are never shown.

    `images` are drawn anew for every seed; `epochs` are those of every training.
    """

    name: str
    images: int
    test_images: int
    epochs: int
    rounds: int
    seeds: int


@dataclass(frozen=True)
class Jobs:
    """The rows of a study under one protocol: `<folder>/<study>/<protocol>/<arm>-<seed>.csv`."""

    study: str
    protocol: Protocol
    folder: Path = RESULTS / "studies"

    def carry_out(self, arms: Iterable[str], seeds: Iterable[int], do: Callable[[str, int, Write], None]) -> None:
        """Do every job that is not done: all arms of the first seed, then of the next; `do` hands its rows to `write`.

        The arms come in the order of what they tell, so that a study that is stopped has answered most. Several
        processes may share a study, each with seeds of its own.
        """
        listed = list(arms)
        for seed in seeds:
            for arm in listed:
                if not self._file(arm, seed).is_file():
                    self._do(arm, seed, do)

    def rows(self, arm: str) -> list[list[dict[str, float]]]:
        """For every seed that is done, in order, its rows."""
        files = sorted(self._place().glob(f"{arm}-[0-9]*.csv"), key=lambda one: int(one.stem.rpartition("-")[2]))
        return [_read(file) for file in files if file.stem.rpartition("-")[0] == arm]

    def _place(self) -> Path:
        return self.folder / self.study / self.protocol.name

    def _file(self, arm: str, seed: int) -> Path:
        return self._place() / f"{arm}-{seed}.csv"

    def _do(self, arm: str, seed: int, do: Callable[[str, int, Write], None]) -> None:
        file = self._file(arm, seed)
        half = file.with_suffix(".csv.part")
        half.parent.mkdir(parents=True, exist_ok=True)
        with half.open("w", newline="", encoding="utf-8") as stream:

            def write(row: Row) -> None:
                writer = csv.DictWriter(stream, list(row), lineterminator="\n")
                if stream.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
                stream.flush()
                print(f"{self.study}, {arm}, seed {seed}: {_told(row)}", flush=True)

            do(arm, seed, write)
        half.replace(file)


def _read(file: Path) -> list[dict[str, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def _told(row: Row) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())
