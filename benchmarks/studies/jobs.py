"""Jobs of a study: one file of rows for every arm and seed, written as they come, so that a study can be stopped."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conditions import RESULTS

Row = Mapping[str, float]
Write = Callable[[Row], None]
Do = Callable[[str, int, Write], None]


@dataclass(frozen=True)
class Protocol:
    """How much a study does. `smoke` shows that the commands run; its rows are never shown.

    `images` are drawn anew for every seed; `epochs` are those of every training.
    """

    name: str
    images: int
    test_images: int
    epochs: int
    seeds: int
    rounds: int = 0


def by_name(*protocols: Protocol) -> dict[str, Protocol]:
    """Protocols, as the command line names them."""
    return {one.name: one for one in protocols}


@dataclass(frozen=True)
class Jobs:
    """The rows of a study under one protocol: `<folder>/<study>/<protocol>/<arm>-<seed>.csv`."""

    study: str
    protocol: Protocol
    folder: Path = RESULTS / "studies"

    def carry_out(self, arms: Iterable[str], seeds: Iterable[int] | None, do: Do) -> None:
        """Do every job that is not done: all arms of the first seed, then of the next; `do` hands its rows to `write`.

        Without `seeds`, as many as the protocol has, from 0. The arms come in the order of what they tell, so that a
        study that is stopped has answered most. Several processes may share a study, each with seeds of its own.
        """
        listed = list(arms)
        for seed in range(self.protocol.seeds) if seeds is None else seeds:
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

    def _do(self, arm: str, seed: int, do: Do) -> None:
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


def arguments(about: str | None, protocols: Iterable[str], arms: Iterable[str]) -> argparse.Namespace:
    """What a study is asked for on the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=list(protocols), default="reduced")
    parser.add_argument(
        "--arms", nargs="+", choices=list(arms), default=list(arms), metavar="ARM", help=", ".join(arms)
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, help="default: from 0, as many as the protocol has")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=RESULTS / "studies", help="where the rows are kept")
    return parser.parse_args()


def _read(file: Path) -> list[dict[str, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def _told(row: Row) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())
