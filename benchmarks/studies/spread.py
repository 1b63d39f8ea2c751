"""Spread: means over seeds, and confidence intervals of differences between arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True)
class Difference:
    """The mean of ours - theirs, paired by seed, and half the width of its 95 % confidence interval (Student's t).

    With one seed `half` is not a number.
    """

    mean: float
    half: float

    def __str__(self) -> str:
        """In percentage points."""
        mean, half = 100 * self.mean, 100 * self.half
        if math.isnan(half):
            return f"{mean:+.2f} (one seed)"
        return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """The difference of two arms, over the seeds that both have; None if they share none."""
    pairs = [ours[seed] - theirs[seed] for seed in sorted({*ours} & {*theirs})]
    if not pairs:
        return None
    if len(pairs) == 1:
        return Difference(pairs[0], math.nan)
    quantile = float(student.ppf(0.975, len(pairs) - 1))
    return Difference(statistics.fmean(pairs), quantile * statistics.stdev(pairs) / math.sqrt(len(pairs)))


def spread(values: Iterable[float], scale: float = 100, digits: int = 2) -> str:
    """The mean, by default in percent, with the standard deviation over seeds if there are several."""
    listed = [scale * value for value in values]
    mean = f"{statistics.fmean(listed):.{digits}f}"
    return mean if len(listed) < 2 else f"{mean} ± {statistics.stdev(listed):.{digits}f}"
