"""Journals of short trainings."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from recipes.log.journal import Journal


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def trained(journal: Journal, phase: str, epochs: int, *, start: int = 0, steps: int = 2) -> None:
    """A training whose loss is the epoch, from epoch `start` on."""
    journal.begin(phase, epochs, steps, epoch=start)
    for epoch in range(start, epochs):
        for step in range(steps):
            journal.step(float(epoch) if step == steps - 1 else None, 8)
        journal.epoch({"loss": float(epoch), "top1": 0.5, "lr": 0.1})


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that advances only when called with seconds."""
    now = [0.0]
    monkeypatch.setattr("recipes.log.progress_bar.time.perf_counter", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move
