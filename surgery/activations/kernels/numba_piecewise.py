"""Loops compiled by numba: the piecewise linear function, whose gradients are sums per interval.

Names are those of `piecewise`: in each of N + 2 regions the value is base + slope (x - anchor). Per channel and region
two numbers are summed, the gradient and the gradient times (x - anchor): every gradient follows from these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.activations.kernels.numba_loops import PIECE, Array, Loops, f32, inline, load, loop, piece, store

TILE = 64  # channels that are processed together
COPIES = 4  # of a histogram, so that neighbours in the same region do not wait for each other
HEAD = 4  # entries of a table before the lines: left, right, intervals per unit of x, and its inverse

ZERO, ONE = f32(0), f32(1)


def table_of(heights: Array, left: Array, right: Array, low_slope: Array, high_slope: Array) -> Array:
    """A row per channel: the head, the base of each region, the slope of each region."""
    intervals = f32(len(heights) - 1)
    inner = (heights[1:] - heights[:-1]) * intervals / (right - left)
    head = [left, right, intervals / (right - left), (right - left) / intervals]
    rows = np.concatenate([*head, heights[:1], heights, low_slope, inner, high_slope])
    return np.ascontiguousarray(rows.T)


def gradients_of(sums: Array, heights: Array, left: Array, right: Array, low: Array, high: Array) -> tuple[Array, ...]:
    """The gradients of all parameters (rows, channels) from the sums (2 regions, channels)."""
    intervals = len(heights) - 1
    scale = intervals / (right.astype(float) - left)
    plain, far = sums[: intervals + 2], sums[intervals + 2 :]
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


@inline
def _place(x: Any, left: Any, right: Any, scale: Any, step: Any, intervals: Any) -> Any:
    """The region of x, and how far x is from its anchor."""
    interval = np.floor((x - left) * scale)
    interval = interval if interval > ZERO else ZERO  # also where x is not a number
    interval = interval if interval < intervals - ONE else intervals - ONE
    region = -ONE if x < left else interval
    region = intervals if x >= right else region
    anchor = left if x < left else left + interval * step
    anchor = right if x >= right else anchor
    return np.int32(region) + np.int32(1), x - anchor


# The loops below pass over a piece several times: table look-ups cannot be vectorised, everything else should be.


@inline
def _look_up(index: Array, far: Array, values: Array, slopes: Array) -> None:
    """Values in place of distances."""
    for i in range(len(index)):
        k = np.uint32(index[i])
        far[i] = values[k] + far[i] * slopes[k]


@inline
def _count(index: Array, far: Array, grads: Array, slopes: Array, counts: Array) -> None:
    """Gradients of x in place of distances, and both sums of each region, which lie together."""
    for i in range(len(index)):
        k = np.uint32(index[i])
        grad, weight = grads[i], grads[i] * far[i]
        far[i] = grad * slopes[k]
        plain, weighted = counts[2 * k] + grad, counts[2 * k + 1] + weight
        counts[2 * k] = plain
        counts[2 * k + 1] = weighted


@loop
def _forward_runs(x, y, table, channels, inner, units, tasks, first, last):  # type: ignore[no-untyped-def]
    regions = (table.shape[1] - HEAD) // 2
    index, far = np.empty(PIECE, np.int32), np.empty(PIECE, f32)
    for unit in range(first * units // tasks, last * units // tasks):
        start, stop, c = piece(unit, inner, channels)
        left, right, scale, step = table[c, 0], table[c, 1], table[c, 2], table[c, 3]
        xs, ys = x[start:stop], y[start:stop]
        for i in range(len(xs)):
            index[i], far[i] = _place(load(xs, i), left, right, scale, step, f32(regions - 2))
        _look_up(index[: len(xs)], far, table[c, HEAD:], table[c, HEAD + regions :])
        for i in range(len(xs)):
            store(ys, i, far[i])


@loop
def _backward_runs(grad, x, out, table, channels, inner, units, sums, first, last):  # type: ignore[no-untyped-def]
    regions = (table.shape[1] - HEAD) // 2
    index, far, grads = np.empty(PIECE, np.int32), np.empty(PIECE, f32), np.empty(PIECE, f32)
    slopes, counts = np.empty(COPIES * regions, f32), np.empty(COPIES * regions * 2, f32)
    for task in range(first, last):
        for unit in range(task * units // len(sums), (task + 1) * units // len(sums)):
            start, stop, c = piece(unit, inner, channels)
            left, right, scale, step = table[c, 0], table[c, 1], table[c, 2], table[c, 3]
            gs, xs, outs = grad[start:stop], x[start:stop], out[start:stop]
            for k in range(COPIES * regions):
                slopes[k] = table[c, HEAD + regions + k % regions]
                counts[2 * k], counts[2 * k + 1] = ZERO, ZERO
            for i in range(len(xs)):
                k, far[i] = _place(load(xs, i), left, right, scale, step, f32(regions - 2))
                index[i] = k + np.int32(i % COPIES * regions)
                grads[i] = load(gs, i)
            _count(index[: len(xs)], far, grads, slopes, counts)
            for i in range(len(xs)):
                store(outs, i, far[i])
            for copy in range(COPIES):
                for k in range(regions):
                    sums[task, k, c] += counts[2 * (copy * regions + k)]
                    sums[task, regions + k, c] += counts[2 * (copy * regions + k) + 1]


@loop
def _forward_rows(x, y, table, channels, inner, units, tasks, first, last):  # type: ignore[no-untyped-def]
    size = table.shape[1]
    regions = (size - HEAD) // 2
    index, far = np.empty(PIECE, np.int32), np.empty(PIECE, f32)
    for low in range(0, channels, TILE):
        width = min(TILE, channels - low)
        head, lines = table[low : low + width, :HEAD].T.copy(), table[low : low + width].copy().reshape(-1)
        for block in range(first * units // tasks, last * units // tasks, PIECE // TILE):
            height = min(PIECE // TILE, last * units // tasks - block)
            for row in range(height):
                at = (block + row) * channels + low
                xs, to = x[at : at + width], slice(row * width, (row + 1) * width)
                ks, ahead = index[to], far[to]
                for i in range(width):
                    left, right, scale, step = head[0, i], head[1, i], head[2, i], head[3, i]
                    k, ahead[i] = _place(load(xs, i), left, right, scale, step, f32(regions - 2))
                    ks[i] = k + np.int32(i * size)
            _look_up(index[: height * width], far, lines[HEAD:], lines[HEAD + regions :])
            for row in range(height):
                at = (block + row) * channels + low
                ys, ahead = y[at : at + width], far[row * width : (row + 1) * width]
                for i in range(width):
                    store(ys, i, ahead[i])


@loop
def _backward_rows(grad, x, out, table, channels, inner, units, sums, first, last):  # type: ignore[no-untyped-def]
    regions = (table.shape[1] - HEAD) // 2
    index, far, grads = np.empty(PIECE, np.int32), np.empty(PIECE, f32), np.empty(PIECE, f32)
    counts = np.empty(TILE * regions * 2, f32)
    for task in range(first, last):
        start, stop = task * units // len(sums), (task + 1) * units // len(sums)
        for low in range(0, channels, TILE):
            width = min(TILE, channels - low)
            head = table[low : low + width, :HEAD].T.copy()
            slopes = table[low : low + width, HEAD + regions :].copy().reshape(-1)
            for block in range(start, stop, PIECE // TILE):
                height = min(PIECE // TILE, stop - block)
                for row in range(height):
                    at = (block + row) * channels + low
                    xs, gs, to = x[at : at + width], grad[at : at + width], slice(row * width, (row + 1) * width)
                    ks, ahead, gains = index[to], far[to], grads[to]
                    for i in range(width):
                        left, right, scale, step = head[0, i], head[1, i], head[2, i], head[3, i]
                        k, ahead[i] = _place(load(xs, i), left, right, scale, step, f32(regions - 2))
                        ks[i] = k + np.int32(i * regions)
                        gains[i] = load(gs, i)
                for k in range(2 * width * regions):
                    counts[k] = ZERO
                _count(index[: height * width], far, grads, slopes, counts)
                for row in range(height):
                    at = (block + row) * channels + low
                    outs, ahead = out[at : at + width], far[row * width : (row + 1) * width]
                    for i in range(width):
                        store(outs, i, ahead[i])
                for i in range(width):
                    for k in range(regions):
                        sums[task, k, low + i] += counts[2 * (i * regions + k)]
                        sums[task, regions + k, low + i] += counts[2 * (i * regions + k) + 1]


RUNS = Loops(_forward_runs, _backward_runs)
ROWWISE = Loops(_forward_rows, _backward_rows)
