"""Spread: means over seeds, and how sure the difference of two arms is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student


def mean_and_deviation(values: Sequence[float]) -> str:
    """In percent: the mean, with the standard deviation over seeds if there are several."""
    mean = 100 * statistics.fmean(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """In points: the mean of ours - theirs, paired by seed, and its 95 % confidence interval (Student's t)."""
    pairs = [100 * (a - b) for a, b in zip(ours, theirs, strict=False)]
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return f"{mean:+.2f} (one seed)"
    half = float(student.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"
