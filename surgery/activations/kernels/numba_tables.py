"""Tables: the parameters of a piecewise linear function as its loops read them, and their gradients from the sums.

All parameters are (rows, channels). Sums are (2 regions, channels): first the gradients in each region, then the
gradients times the distances to its anchor.
"""

from __future__ import annotations

import numpy as np

from surgery.activations.kernels.numba_lanes import ENTRIES
from surgery.activations.kernels.numba_loops import Array, f32


def even_table(by_rows: bool, heights: Array, left: Array, right: Array, low: Array, high: Array) -> Array:
    """The table of equally spaced knots."""
    intervals = f32(len(heights) - 1)
    table, head, bases, slopes = _empty(by_rows, 4, len(heights) + 1, heights.shape[1])
    width, scale = right - left, head[2]
    head[0], head[1] = left[0], right[0]
    np.divide(intervals, width[0], scale)
    np.divide(width[0], intervals, head[3])
    bases[0], bases[1:] = heights[0], heights
    slopes[0], slopes[1:-1], slopes[-1] = low[0], (heights[1:] - heights[:-1]) * intervals / width, high[0]
    return table


def uneven_table(by_rows: bool, start: Array, height: Array, widths: Array, slopes: Array) -> Array:
    """The table of knots at any distance."""
    table, head, bases, lines = _empty(by_rows, len(widths) + 1, len(slopes), slopes.shape[1])
    head[0], bases[0], bases[1] = start[0], height[0], height[0]
    np.add(start, np.cumsum(widths, 0), head[1:])
    np.add(height, np.cumsum(widths * slopes[1:-1], 0), bases[2:])
    lines[:] = slopes
    return table


def even_gradients(
    sums: Array, heights: Array, left: Array, right: Array, low: Array, high: Array
) -> tuple[Array, ...]:
    """The gradients of all parameters."""
    regions, intervals = len(heights) + 1, len(heights) - 1
    scale = intervals / (right.astype(float) - left)
    plain, far = sums[:regions], sums[regions:]
    inner, weighted = plain[1:-1], far[1:-1] * scale
    of_heights = np.empty((intervals + 1, sums.shape[1]))
    of_heights[0], of_heights[1:] = plain[0], weighted
    of_heights[:-1] += inner
    of_heights[:-1] -= weighted
    of_heights[-1] += plain[-1]
    slopes = (heights[1:].astype(float) - heights[:-1]) * scale
    place = (weighted + np.arange(intervals)[:, None] * inner) / intervals
    of_left = (slopes * (place - inner)).sum(0) - low * plain[:1]
    of_right = -(slopes * place).sum(0) - high * plain[-1:]
    return of_heights, of_left, of_right, far[:1], far[-1:]


def uneven_gradients(sums: Array, start: Array, height: Array, widths: Array, slopes: Array) -> tuple[Array, ...]:
    """The gradients of all parameters: the width of an interval shifts what is right of it, and lifts it."""
    plain, far = sums[: len(slopes)], sums[len(slopes) :]
    steep = slopes.astype(float)
    right, shifted = (np.cumsum(rows[:1:-1], 0)[::-1] for rows in (plain, steep * plain))
    of_slopes = np.concatenate([far[:1], far[1:-1] + widths * right, far[-1:]])
    return -(steep * plain).sum(0, keepdims=True), plain.sum(0, keepdims=True), steep[1:-1] * right - shifted, of_slopes


def _empty(by_rows: bool, heads: int, regions: int, channels: int) -> tuple[Array, Array, Array, Array]:
    """A table, and where in it the head (rows, channels) is, and the bases and the slopes (regions, channels).

    The latter are by channels: in pairs, or the ones after the others.
    """
    space = regions if by_rows else max(ENTRIES, regions)
    table = np.zeros(channels * (heads + 2 * space), f32)
    split = channels * heads
    lines = table[split:].reshape(channels, space, 2) if by_rows else table[split:].reshape(channels, 2, space)
    bases, slopes = (lines[:, :, 0], lines[:, :, 1]) if by_rows else (lines[:, 0, :regions], lines[:, 1, :regions])
    return table, table[:split].reshape(heads, channels), bases.T, slopes.T
