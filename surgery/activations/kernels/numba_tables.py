"""Tables: the parameters of a piecewise linear function as its loops read them, and their gradients from the sums.

Sums are (2 regions, channels): first the gradients in each region, then the gradients times the distances to its
anchor. Equally spaced knots, those of a PWLU, are converted by loops: numpy would take longer for it than the kernel
itself for a small tensor. Knots at any distance are converted by numpy, with parameters (rows, channels).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from surgery.activations.functions.piecewise import FLOOR
from surgery.activations.kernels.numba_lanes import ENTRIES, pointer
from surgery.activations.kernels.numba_loops import ONE, ZERO, Array, f32, inline
from surgery.activations.kernels.numba_tasks import Loop, compiled

HEAD = 4  # numbers of even knots per channel
# What the loops for even knots are told: for each parameter its address, then 1, or 0 if all channels share it; sizes;
# a table to fill; or sums, by task, and for each parameter the address of its gradient.
HEIGHTS, LEFT, RIGHT, LOW, HIGH = range(5)
OWN, KNOTS, CHANNELS, COLUMNS, TABLE, SUMS, TASKS, GRADIENTS, FIELDS = 5, 10, 11, 12, 13, 14, 15, 16, 21


def even_size(by_rows: bool, knots: int, columns: int) -> int:
    """How many numbers the table of equally spaced knots has."""
    return columns * (HEAD + 2 * (knots + 1 if by_rows else max(ENTRIES, knots + 1)))


@inline
def _apart(left: Any, right: Any) -> Any:
    """The right bound, as `apart` of `piecewise` moves it."""
    lacking = f32(FLOOR) * (ONE + abs(left)) - (right - left)
    return right if lacking <= ZERO else right + lacking


@inline
def _numbers(job: Array, parameter: int) -> Any:
    """A parameter (rows, channels), or (rows, 1)."""
    rows = job[KNOTS] if parameter == HEIGHTS else 1
    columns = job[CHANNELS] if job[OWN + parameter] else 1
    return carray(pointer(job[parameter]), (rows, columns), np.float32)


@cache
def even_table_of(by_rows: bool) -> Loop:
    """Fill the table of equally spaced knots, whose channels are repeated until there are as many as columns."""

    def even_table(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        knots, channels, columns = job[KNOTS], job[CHANNELS], job[COLUMNS]
        heights, lefts, rights = _numbers(job, HEIGHTS), _numbers(job, LEFT), _numbers(job, RIGHT)
        lows, highs = _numbers(job, LOW), _numbers(job, HIGH)
        intervals = f32(knots - 1)
        space = knots + 1 if by_rows else max(ENTRIES, knots + 1)
        table = carray(pointer(job[TABLE]), columns * (HEAD + 2 * space), np.float32)
        step, slopes = (2, 1) if by_rows else (1, space)  # bases and slopes are in pairs, or the ones after the others
        for column in range(columns):
            c = column % channels
            own = c * job[OWN + HEIGHTS]
            left = lefts[0, c * job[OWN + LEFT]]
            right = _apart(left, rights[0, c * job[OWN + RIGHT]])
            width = right - left
            table[column], table[columns + column] = left, right
            table[2 * columns + column], table[3 * columns + column] = intervals / width, width / intervals
            at = HEAD * columns + 2 * space * column
            height = heights[0, own]
            table[at], table[at + slopes] = height, lows[0, c * job[OWN + LOW]]
            for k in range(1, knots):
                at += step
                after = heights[k, own]
                table[at], table[at + slopes] = height, (after - height) * intervals / width
                height = after
            at += step
            table[at], table[at + slopes] = height, highs[0, c * job[OWN + HIGH]]

    return compiled(even_table)


@cache
def even_gradients() -> Loop:
    """Compute the gradients of all parameters for equally spaced knots."""

    def of_all_parameters(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        knots, channels, columns, tasks = job[KNOTS], job[CHANNELS], job[COLUMNS], job[TASKS]
        heights, lefts, rights = _numbers(job, HEIGHTS), _numbers(job, LEFT), _numbers(job, RIGHT)
        lows, highs = _numbers(job, LOW), _numbers(job, HIGH)
        intervals, regions = knots - 1, knots + 1
        sums = carray(pointer(job[SUMS]), (tasks, 2 * regions, columns), np.float64)
        total, found = np.zeros((2 * regions, channels)), np.zeros((knots + 4, channels))
        for task in range(tasks):
            for row in range(2 * regions):
                for first in range(0, columns, channels):
                    for c in range(channels):
                        total[row, c] += sums[task, row, first + c]
        for c in range(channels):
            own = c * job[OWN + HEIGHTS]
            left = lefts[0, c * job[OWN + LEFT]]
            right = _apart(left, rights[0, c * job[OWN + RIGHT]])
            scale = intervals / (np.float64(right) - np.float64(left))
            of_left = -lows[0, c * job[OWN + LOW]] * total[0, c]
            of_right = -highs[0, c * job[OWN + HIGH]] * total[regions - 1, c]
            found[0, c] = total[0, c]
            for k in range(intervals):
                plain, weighted = total[k + 1, c], total[regions + k + 1, c] * scale
                slope = (np.float64(heights[k + 1, own]) - np.float64(heights[k, own])) * scale
                place = (weighted + k * plain) / intervals
                found[k, c] += plain - weighted
                found[k + 1, c] = weighted
                of_left += slope * (place - plain)
                of_right -= slope * place
            found[intervals, c] += total[regions - 1, c]
            found[knots, c], found[knots + 1, c] = of_left, of_right
            found[knots + 2, c], found[knots + 3, c] = total[regions, c], total[2 * regions - 1, c]
        row = 0
        for parameter in range(5):
            rows, separate = knots if parameter == HEIGHTS else 1, job[OWN + parameter] == 1
            out = carray(pointer(job[GRADIENTS + parameter]), rows * (channels if separate else 1), np.float32)
            for k in range(rows):
                if separate:
                    for c in range(channels):
                        out[k * channels + c] = found[row + k, c]
                else:
                    out[k] = found[row + k].sum()
            row += rows

    return compiled(of_all_parameters)


def uneven_table(by_rows: bool, start: Array, height: Array, widths: Array, slopes: Array) -> Array:
    """The table of knots at any distance."""
    heads, regions, channels = len(widths) + 1, len(slopes), slopes.shape[1]
    space = regions if by_rows else max(ENTRIES, regions)
    table = np.zeros(channels * (heads + 2 * space), f32)
    split = channels * heads
    head, lines = table[:split].reshape(heads, channels), table[split:]
    # By channels, bases and slopes are in pairs, or the ones after the others.
    lines = lines.reshape(channels, space, 2) if by_rows else lines.reshape(channels, 2, space).transpose(0, 2, 1)
    bases, steep = lines[:, :regions, 0].T, lines[:, :regions, 1].T
    head[0], bases[0], bases[1] = start[0], height[0], height[0]
    np.add(start, np.cumsum(widths, 0), head[1:])
    np.add(height, np.cumsum(widths * slopes[1:-1], 0), bases[2:])
    steep[:] = slopes
    return table


def uneven_gradients(sums: Array, start: Array, height: Array, widths: Array, slopes: Array) -> tuple[Array, ...]:
    """The gradients of all parameters: the width of an interval shifts what is right of it, and lifts it."""
    plain, far = sums[: len(slopes)], sums[len(slopes) :]
    steep = slopes.astype(float)
    right, shifted = (np.cumsum(rows[:1:-1], 0)[::-1] for rows in (plain, steep * plain))
    of_slopes = np.concatenate([far[:1], far[1:-1] + widths * right, far[-1:]])
    return -(steep * plain).sum(0, keepdims=True), plain.sum(0, keepdims=True), steep[1:-1] * right - shifted, of_slopes
