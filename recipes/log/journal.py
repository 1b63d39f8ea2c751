"""Journal: record and display the trainings of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recipes.log.csv_log import LOG, Log, Row
from recipes.log.progress_bar import Bar, Speed
from recipes.log.trackers import TrackerName, tracker
from surgery.errors import BadValue
from surgery.processes import is_first


class Journal:
    """Writes a row for every epoch to `<folder>/log.csv`, shows a progress bar, and feeds trackers.

    Without a folder nothing is written. `quiet` disables the bar; by default it is shown only if stderr is a
    terminal. Without a bar, `say` gets one line for every epoch. `trackers` are names of `recipes.log.trackers`.
    With torch.distributed, only the first process does any of this, but all may call it.

    Raises:
        UnknownName, BadValue, SurgeryError: no such tracker, no folder for it, or its package is not installed.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        quiet: bool | None = None,
        trackers: Sequence[TrackerName] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        found = [tracker(name, folder) for name in trackers]  # in every process, so that all fail together
        self._first = is_first()
        self._trackers = found if self._first else []
        self._log = Log(folder / LOG) if folder is not None and self._first else None
        self._shown = self._first and not (not sys.stderr.isatty() if quiet is None else quiet)
        self._announce = say if self._first else None
        self._say = None if self._shown else self._announce
        self._speed = Speed()
        self._bar: Bar | None = None
        self._phase: str | None = None
        self._epoch = self._epochs = self._number = 0

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        """A training begins or resumes: `phase` is its name, `steps` the number of optimiser steps in an epoch.

        `epoch` is the current one, from 0, and `step` the number of steps already made in it. Rows of this phase from
        that epoch on are dropped from the log.

        Raises:
            BadValue: a name that is empty or not one printable line.
            BadFile: the log in the folder is not one of ours.
        """
        if not phase or not phase.isprintable():
            raise BadValue("The name of a phase must be one printable line.", asked=repr(phase), try_='"fit"')
        kept = self._log.begin(phase, epoch) if self._log else self._number
        self._end_bar()
        self._phase, self._epoch, self._epochs, self._number = phase, epoch, epochs, kept
        for listener in self._trackers:
            listener.begin(kept)
        if self._announce and (epoch or step) and epoch < epochs:
            self._announce(f"{phase}: resuming at epoch {epoch + 1} of {epochs}" + (f", step {step}" if step else ""))
        if self._shown and epochs * steps:
            self._bar = Bar(phase, epochs, steps, epoch, step)
        self._speed.restart()

    def step(self, loss: float | None, images: int) -> None:
        """An optimiser step was made on `images` images of all processes together; `loss` is None if it was not read.

        Raises:
            BadValue: no training has begun.
        """
        self._current()
        self._speed.count(images)
        if self._bar:
            self._bar.step(loss, self._speed.images_s)

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over: `loss`, `top1` (a fraction), `lr` and `living` (the density), if known.

        Raises:
            BadValue: a number of another name, or no training has begun.
        """
        phase, speed = self._current(), self._speed.images_s
        taken = Row.of(phase, self._epoch, dict(row) | ({} if speed is None else {"images_s": round(speed, 1)}))
        if self._log:
            self._log.append(taken)
        for listener in self._trackers:
            listener.row(self._number, phase, taken.numbers)
        self._epoch, self._number = self._epoch + 1, self._number + 1
        if self._bar:
            self._bar.epoch(self._epoch, taken.top1)
        if self._say:
            self._say(f"{phase}, epoch {self._epoch} of {self._epochs}: {_summary(taken)}")
        self._speed.restart()

    def close(self) -> None:
        """End the run; closing twice has no further effect."""
        self._end_bar()
        for listener in self._trackers:
            listener.close()
        self._phase = None

    def _current(self) -> str:
        if self._phase is None:
            raise BadValue("No training has begun.", try_="begin(phase, epochs, steps) first")
        return self._phase

    def _end_bar(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None


def _summary(row: Row) -> str:
    texts = {
        "loss": "loss {:.3f}", "top1": "top-1 {:.1%}", "living": "density {:.1%}",
        "images_s": "{:.0f} images/s",
    }  # fmt: skip
    return ", ".join(texts[name].format(row.numbers[name]) for name in texts if name in row.numbers) or "done"
