"""Progress: how far a choice is, how fast it goes, and how long it will take, a line at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]

_PAUSE = 2.0  # seconds between lines


class Progress:
    """Counts the steps of one stage; says a line every few seconds, and one at the end."""

    def __init__(self, say: Say | None, stage: str, steps: int | None) -> None:
        self.say, self.stage, self.steps = say, stage, steps
        self.done = 0
        self._began = self._said = time.monotonic()
        self._skipped = 0

    def step(self, about: str, *, known: bool = False) -> None:
        """A step was made; `known` ones took no time and do not count for the speed."""
        self.done += 1
        self._skipped += known
        now = time.monotonic()
        if self.say is not None and (self.done == self.steps or now - self._said >= _PAUSE):
            self._said = now
            self.say(f"{self.stage} {self._counted()}{self._speed(now)}: {about}")

    def _counted(self) -> str:
        return f"{self.done}/{self.steps}" if self.steps is not None else str(self.done)

    def _speed(self, now: float) -> str:
        fresh, took = self.done - self._skipped, now - self._began
        if not fresh or took <= 0:
            return ""
        speed = f", {fresh / took:.2g} per s"
        if self.steps is None or self.done == self.steps:
            return speed
        return f"{speed}, {in_words(took / fresh * (self.steps - self.done))} left"


def in_words(seconds: float) -> str:
    """A time in words: "40 s", "3 min", "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
