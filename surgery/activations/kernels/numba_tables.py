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
    inner = (heights[1:] - heights[:-1]) * intervals / (right - left)
    head = [left, right, intervals / (right - left), (right - left) / intervals]
    bases, slopes = np.concatenate([heights[:1], heights]), np.concatenate([low, inner, high])
    return _table(by_rows, np.concatenate(head), bases, slopes)


def uneven_table(by_rows: bool, start: Array, height: Array, widths: Array, slopes: Array) -> Array:
    """The table of knots at any distance."""
    knots = start + _from_zero(widths)
    values = height + _from_zero(widths * slopes[1:-1])
    return _table(by_rows, knots, np.concatenate([values[:1], values]), slopes)


def even_gradients(
    sums: Array, heights: Array, left: Array, right: Array, low: Array, high: Array
) -> tuple[Array, ...]:
    """The gradients of all parameters."""
    intervals = len(heights) - 1
    scale = intervals / (right.astype(float) - left)
    plain, far = np.split(sums, 2)
    inner, weighted = plain[1:-1], far[1:-1] * scale
    of_heights = np.zeros((intervals + 1, sums.shape[1]))
    of_heights[:-1] += inner - weighted
    of_heights[1:] += weighted
    of_heights[0] += plain[0]
    of_heights[-1] += plain[-1]
    slopes = (heights[1:].astype(float) - heights[:-1]) * scale
    place = (weighted + np.arange(intervals)[:, None] * inner) / intervals
    of_left = (slopes * (place - inner)).sum(0) - low * plain[:1]
    of_right = -(slopes * place).sum(0) - high * plain[-1:]
    return of_heights, of_left, of_right, far[:1], far[-1:]


def uneven_gradients(sums: Array, start: Array, height: Array, widths: Array, slopes: Array) -> tuple[Array, ...]:
    """The gradients of all parameters: the width of an interval shifts what is right of it, and lifts it."""
    plain, far = np.split(sums, 2)
    steep = slopes.astype(float)
    right, shifted = (np.cumsum(rows[:1:-1], 0)[::-1] for rows in (plain, steep * plain))
    of_slopes = np.concatenate([far[:1], far[1:-1] + widths * right, far[-1:]])
    return -(steep * plain).sum(0, keepdims=True), plain.sum(0, keepdims=True), steep[1:-1] * right - shifted, of_slopes


def _table(by_rows: bool, head: Array, bases: Array, slopes: Array) -> Array:
    """The head by rows, then bases and slopes by channels: in pairs, or one after the other."""
    regions, channels = bases.shape
    lines = np.zeros((channels, 2, regions if by_rows else max(ENTRIES, regions)), f32)
    lines[:, 0, :regions], lines[:, 1, :regions] = bases.T, slopes.T
    return np.concatenate([head.astype(f32).ravel(), (lines.swapaxes(1, 2) if by_rows else lines).ravel()])


def _from_zero(steps: Array) -> Array:
    """Sums (N + 1, channels) of the steps (N, channels) so far."""
    return np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, 0)])
