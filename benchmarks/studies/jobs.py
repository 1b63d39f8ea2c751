"""Jobs of a study: every arm with every seed, sequentially or in parallel; finished jobs are kept."""

from __future__ import annotations

import csv
import datetime
import io
import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol as Interface
from typing import TypeVar

import torch

from benchmarks.conditions import device_name

Figures = Mapping[str, float]
Write = Callable[[Figures], None]
Do = Callable[[str, int, Write], None]

_BEFORE, _BEHIND = ("arm", "seed"), ("processor", "torch", "date")


class Size(Interface):
    """The size of a study. `smoke` only shows that the commands run; its figures are meaningless."""

    @property
    def name(self) -> str: ...

    @property
    def seeds(self) -> int: ...


S = TypeVar("S", bound=Size)


@dataclass(frozen=True)
class Protocol:
    """The size of a study of ResNets and the like.

    All arms train on the same `images`, for `epochs` from trained and for `fresh_epochs` from random weights. `short`
    asks many arms the same question in an hour or two; what it finds large is to be asked again with `reduced`.
    """

    name: str
    images: int
    test_images: int
    epochs: int
    fresh_epochs: int
    seeds: int
    rounds: int = 0

    def trainings(self, fresh: Collection[bool]) -> str:
        """The lengths of the trainings, in words; `fresh` says which of the two kinds occur."""
        lengths = ((False, self.epochs, "trained"), (True, self.fresh_epochs, "fresh"))
        parts = [
            f"{epochs} epoch{'s' * (epochs > 1)} from {kind} weights"
            for start, epochs, kind in lengths
            if start in fresh
        ]
        return f"{' or '.join(parts)}, on {self.images:,} training images"


def by_name(*protocols: S) -> dict[str, S]:
    """Protocols by their names on the command line."""
    return {protocol.name: protocol for protocol in protocols}


@dataclass(frozen=True)
class Row:
    """A row of a job: its figures, and where and when they were measured."""

    figures: Figures
    processor: str
    torch: str
    date: str


@dataclass(frozen=True)
class Jobs:
    """The rows of all finished jobs, in one CSV file; a job is an arm with a seed."""

    file: Path

    def carry_out(self, arms: Sequence[str], seeds: Sequence[int], do: Do, device: str, at_once: int = 1) -> None:
        """Run every unfinished job: `do(arm, seed, write)` passes its rows to `write`.

        All seeds of the first arm come first: the arms are in the order of what they tell, so that a study that is
        stopped has answered most. A job that is cut short is done again. With `at_once`, so many processes share the
        jobs. A job that fails leaves no rows; the others are done first.
        """
        done, failed = self.rows(), list[Exception]()
        todo = [(arm, seed) for arm in arms for seed in seeds if seed not in done.get(arm, {})]
        for arm, seed, wait in _in_turn(todo, do) if at_once < 2 else _at_once(todo, do, at_once):
            try:
                rows = wait()
            except Exception as error:
                error.add_note(f"in the job {arm}, seed {seed}")
                failed.append(error)
            else:
                self._append(arm, seed, rows, device)
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(todo)} jobs failed", failed)

    def rows(self) -> dict[str, dict[int, list[Row]]]:
        """The rows of every finished arm and seed."""
        found: dict[str, dict[int, list[Row]]] = {}
        if self.file.is_file():
            with self.file.open(newline="", encoding="utf-8") as stream:
                for line in csv.DictReader(stream):
                    figures = {name: float(line[name]) for name in line if name not in (*_BEFORE, *_BEHIND)}
                    row = Row(figures, *(line[name] for name in _BEHIND))
                    found.setdefault(line["arm"], {}).setdefault(int(line["seed"]), []).append(row)
        return found

    def _append(self, arm: str, seed: int, rows: Sequence[Figures], device: str) -> None:
        """Append the rows of a job in a single write: all of them or none.

        Raises:
            ValueError: the file has rows with other figures.
        """
        today, head = datetime.datetime.now(datetime.UTC).date().isoformat(), [*_BEFORE, *rows[0], *_BEHIND]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self.file.is_file():
            with self.file.open(newline="", encoding="utf-8") as stream:
                if (there := next(csv.reader(stream))) != head:
                    raise ValueError(f"{self.file} has the columns {there}, not {head}: move it away.")
        else:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            writer.writerow(head)
        for row in rows:
            figures = (f"{value:.6g}" for value in row.values())
            writer.writerow([arm, seed, *figures, device_name(device), version("torch"), today])
        with self.file.open("ab", buffering=0) as stream:
            stream.write(text.getvalue().encode())


Waiting = tuple[str, int, Callable[[], Sequence[Figures]]]  # returns the rows of a job, or raises its error


def _in_turn(todo: Iterable[tuple[str, int]], do: Do) -> Iterator[Waiting]:
    return ((arm, seed, partial(_done, do, arm, seed)) for arm, seed in todo)


def _at_once(todo: Iterable[tuple[str, int]], do: Do, processes: int) -> Iterator[Waiting]:
    """The jobs in the order they finish."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(_done, do, arm, seed): (arm, seed) for arm, seed in todo}
        yield from ((*jobs[job], job.result) for job in as_completed(jobs))


def _done(do: Do, arm: str, seed: int) -> list[Figures]:
    torch.set_num_threads(1)
    rows: list[Figures] = []

    def write(row: Figures) -> None:
        rows.append(dict(row))
        print(f"{arm}, seed {seed}: {', '.join(f'{name} {value:.4g}' for name, value in row.items())}", flush=True)

    do(arm, seed, write)
    return rows
