"""Bootstrap: confidence intervals of figures that were measured in rounds."""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

DRAWS = 2000


def interval(
    rounds: Sequence[Any], figure: Callable[[Sequence[Any]], float] = statistics.median
) -> tuple[float, float, float]:
    """A statistic of the rounds, by default their median, and its 95 % interval, with a fixed seed."""
    chance = random.Random(0)
    drawn = sorted(figure(chance.choices(rounds, k=len(rounds))) for _ in range(DRAWS))
    return figure(rounds), drawn[round(0.025 * DRAWS) - 1], drawn[round(0.975 * DRAWS) - 1]


def with_interval(
    rounds: Sequence[Any], figure: Callable[[Sequence[Any]], float] = statistics.median, digits: int = 3
) -> str:
    """The same as text."""
    middle, low, high = interval(rounds, figure)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
