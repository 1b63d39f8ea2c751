"""Stopwatch: the times of functions that are called in turns, so that all of them meet the same disturbances."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

Function = Callable[[], object]

_WARM_UP = 3  # calls
_LEAST_MS = 2.0  # of one round of one function: shorter ones are called several times


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call: the minimum and the median over `rounds` rounds. Disturbances only ever add time."""

    ms: float
    median: float
    rounds: int

    def faster_than(self, other: Timing) -> bool:
        """Whether minimum and median agree that it is."""
        return self.ms < other.ms and self.median < other.median


def in_turns(functions: Mapping[str, Function], rounds: int, device: torch.device) -> dict[str, Timing]:
    """The times of functions, each called once or more in every round."""
    repeats: dict[str, int] = {}
    for name, function in functions.items():
        for _ in range(_WARM_UP):
            function()
        repeats[name] = max(1, round(_LEAST_MS / max(_ms(function, 1, device), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(_ms(function, repeats[name], device))
    return {name: Timing(min(found), median(found), rounds) for name, found in times.items()}


def _ms(function: Function, calls: int, device: torch.device) -> float:
    """Milliseconds of one of so many calls."""
    _finish(device)
    began = time.perf_counter()
    for _ in range(calls):
        function()
    _finish(device)
    return 1e3 * (time.perf_counter() - began) / calls


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
