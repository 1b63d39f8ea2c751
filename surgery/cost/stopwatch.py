"""Stopwatch: the times of functions that are called in turns, so that all of them meet the same disturbances."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

Function = Callable[[], object]

_WARM_UP = 3  # calls
_TICK_MS = 1e-6  # no call takes less
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
    times = times_in_turns(functions, rounds, device)
    return {name: Timing(min(found), median(found), rounds) for name, found in times.items()}


def speedup(before: Function, after: Function, rounds: int, device: torch.device) -> float:
    """How many times faster one function is than another: the median of the ratios of all rounds."""
    times = times_in_turns({"before": before, "after": after}, rounds, device)
    return median(one / other for one, other in zip(times["before"], times["after"], strict=True))


def times_in_turns(functions: Mapping[str, Function], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of one call of each function in each round.

    With one thread on a processor it is the time of that thread alone, which other processes do not add to.
    """
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    repeats: dict[str, int] = {}
    for name, function in functions.items():
        for _ in range(_WARM_UP):
            function()
        repeats[name] = max(1, round(_LEAST_MS / max(_ms(function, 1, device, clock), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(max(_ms(function, repeats[name], device, clock), _TICK_MS))
    return times


def _ms(function: Function, calls: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Milliseconds of one of so many calls."""
    _finish(device)
    began = clock()
    for _ in range(calls):
        function()
    _finish(device)
    return 1e3 * (clock() - began) / calls


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
