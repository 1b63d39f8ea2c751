"""Stopwatch: every function is called in every round, and times are positive."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from surgery.cost import stopwatch
from surgery.cost.stopwatch import Timing, in_turns, speedup


def test_functions_take_turns() -> None:
    calls: list[str] = []
    times = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 4, torch.device("cpu"))
    assert set(times) == {"a", "b"} and set(Counter(calls)) == {"a", "b"}
    assert all(0 < timing.ms <= timing.median and timing.rounds == 4 for timing in times.values())
    changes = sum(one != other for one, other in pairwise(calls))
    assert changes == 2 * 4 + 1  # once in the warm-up, then in every round


def test_faster_is_what_minimum_and_median_agree_on() -> None:
    slow = Timing(2.0, 3.0, 5)
    assert Timing(1.0, 2.0, 5).faster_than(slow)
    assert not Timing(1.0, 4.0, 5).faster_than(slow) and not slow.faster_than(slow)


def test_a_speedup_is_the_median_of_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"before": [2.0, 4.0, 30.0], "after": [1.0, 4.0, 10.0]}
    monkeypatch.setattr(stopwatch, "times_in_turns", lambda *_: times)
    assert speedup(print, print, 3, torch.device("cpu")) == 2.0
