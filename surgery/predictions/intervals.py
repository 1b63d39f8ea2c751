"""Intervals: how sure a mean over images is, and a statistic of several models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

SURE = 1.96  # standard errors on both sides of a 95 % interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {SURE * self.error:.4f}"


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (N), and its standard error; 0 for a single value."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return values.mean().item(), error if math.isfinite(error) else math.inf


def jackknife(statistic: Callable[[Sequence[int]], float], count: int) -> Estimate:
    """A statistic of all of `count` models, which gets their numbers; its error by leaving out one model at a time.

    Source: Quenouille 1956, "Notes on bias in estimation"; the standard error is Tukey's.
    """
    everyone = range(count)
    without = [statistic([k for k in everyone if k != left]) for left in everyone]
    mean = sum(without) / count
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in without))
    return Estimate(statistic(everyone), error)
