"""Progress: steps, speed and remaining time."""

from __future__ import annotations

import pytest

from surgery import progress
from surgery.progress import Progress, in_words


def test_lines_say_steps_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = iter([0.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    bar = Progress(lines.append, "measured", 4)
    for about in ("a", "b", "c"):
        bar.step(about)
    assert lines == ["measured 1/4, 0.1 per s, 30 s left: a", "measured 3/4, 0.15 per s, 7 s left: c"]


def test_what_was_known_does_not_count_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = iter([0.0, 1.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    bar = Progress(lines.append, "measured", 2)
    bar.step("a", known=True)
    bar.step("b")
    assert lines == ["measured 2/2, 0.1 per s: b"]


def test_without_a_listener_nothing_is_said() -> None:
    Progress(None, "measured", None).step("a")


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (170, "3 min"), (9000, "2.5 h")])
def test_times_in_words(seconds: float, text: str) -> None:
    assert in_words(seconds) == text
