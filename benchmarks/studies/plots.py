"""Plots of studies: the curves of the arms, and the difference of each to its control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.studies.spread import Difference

MARKS = "osv^D<>Pp*"
MOST = len(MARKS)  # distinguishable curves; further ones are not drawn


@dataclass(frozen=True)
class Curve:
    """An arm along x: the values of every seed, in [0, 1]."""

    x: Sequence[float]
    seeds: Sequence[Sequence[float]]


def drawn(curves: Mapping[str, Curve], x_label: str, against: Mapping[str, Difference], what: str) -> Figure:
    """Curves on the left, with the standard deviation over seeds shaded; differences to controls on the right."""
    figure = Figure(figsize=(11.0, max(4.2, 1.0 + 0.3 * len(against))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, (name, curve) in enumerate(islice(curves.items(), MOST)):
        _curve(left, name, curve, f"C{number}", MARKS[number])
    left.set_xlabel(x_label)
    left.set_ylabel("test accuracy")
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    _forest(right, against)
    right.set_xlabel(what)
    return figure


def _curve(axes: Axes, name: str, curve: Curve, colour: str, mark: str) -> None:
    points = list(zip(*curve.seeds, strict=False))  # up to the shortest seed, which may have diverged
    x, means = curve.x[: len(points)], [fmean(values) for values in points]
    axes.plot(x, means, marker=mark, markersize=4, color=colour, label=name, linewidth=1.2)
    if len(curve.seeds) > 1:
        spread = [stdev(values) for values in points]
        low, high = (
            [mean + sign * deviation for mean, deviation in zip(means, spread, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _forest(axes: Axes, against: Mapping[str, Difference]) -> None:
    """A dot per arm, and its confidence interval."""
    names = list(against)[::-1]
    for place, name in enumerate(names):
        difference = against[name]
        half = 0.0 if math.isnan(difference.half) else 100 * difference.half
        axes.errorbar(100 * difference.mean, place, xerr=half, fmt="o", color="C0", capsize=3, markersize=4)
    axes.axvline(0.0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(alpha=0.3, axis="x")
