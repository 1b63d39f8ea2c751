"""Loops compiled by numba: piecewise linear functions, whose gradients are sums per region.

In each of N + 2 regions the value is base + slope (x - anchor), as in `piecewise`. Per channel and region two numbers
are summed, the gradient and the gradient times (x - anchor): every gradient follows from these.

A table has four numbers per channel if the knots are even (left, right, intervals per unit of x, and its inverse), and
all the knots otherwise; after these, for each channel, the bases and the slopes of its regions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from surgery.activations.kernels.numba_lanes import (
    ENTRIES,
    FETCHES,
    WIDE,
    WIDTH,
    add_where,
    floor,
    gather,
    gather_pairs,
    gather_rows,
    lanes,
    load,
    look_up,
    pointer,
    prefetch,
    store,
    take,
    total,
    where,
)
from surgery.activations.kernels.numba_loops import AHEAD, BLOCK, ONE, PIECE, ZERO, Array, entry, f32, inline, unit_of
from surgery.activations.kernels.numba_tables import HEAD
from surgery.activations.kernels.numba_tasks import (
    CHANNELS,
    FIELDS,
    GRAD,
    INNER,
    OUT,
    ROWS,
    SIZE,
    SUMS,
    TABLE,
    TASKS,
    UNITS,
    Loop,
    X,
    compiled,
)

TILE = 64  # channels that are processed together
MOST = 256  # registers of elements of one channel whose gradients are summed in float32
KEPT = 1024  # elements whose regions are found before their gradients are summed
FEW, GROUP = 6, 9  # regions that are summed together, in registers
MANY = 40 if WIDE else 0  # regions from which it is faster to sum one element at a time


@inline
def _even(x: Any, left: Any, right: Any, scale: Any, step: Any, intervals: Any) -> Any:
    """The region of x, and how far x is from its anchor."""
    interval = floor((x - left) * scale)
    interval = where(interval > ZERO, interval, ZERO)  # also left of all knots, and where x is not a number
    interval = where(interval < intervals - ONE, interval, intervals - ONE)
    above = x >= right
    anchor = where(above, right, left + interval * step)
    region = where(above, intervals + ONE, where(x < left, ZERO, interval + ONE))
    return region, x - anchor


@inline
def _uneven(x: Any, by_rows: bool, table: Array, at: int, channels: int, knots: int) -> Any:
    """Likewise: the region is the number of knots at or left of x."""
    region, anchor = lanes(ZERO), entry(by_rows, table, at)
    for k in range(knots):
        knot = entry(by_rows, table, k * channels + at)
        right = x >= knot
        region = where(right, f32(k + 1), region)
        anchor = where(right, knot, anchor)
    return region, x - anchor


@inline
def _place(even: bool, by_rows: bool, x: Any, table: Array, at: int, channels: int, regions: int) -> Any:
    if even:
        left, right = entry(by_rows, table, at), entry(by_rows, table, channels + at)
        scale, step = entry(by_rows, table, 2 * channels + at), entry(by_rows, table, 3 * channels + at)
        return _even(x, left, right, scale, step, f32(regions - 2))
    return _uneven(x, by_rows, table, at, channels, regions - 1)


@inline
def space_of(by_rows: bool, regions: int) -> int:
    """Room for the regions in a table: that of two registers, if these can be looked up in."""
    return regions if by_rows else max(ENTRIES, regions)


@inline
def _line(by_rows: bool, table: Array, start: int, space: int, region: Any) -> Any:
    """The base and the slope of a region."""
    if by_rows:
        return gather_pairs(table, start, space, region)
    if space == ENTRIES:
        return look_up(table, start, region), look_up(table, start + space, region)
    return gather(table, start, region), gather(table, start + space, region)


@inline
def _slope(by_rows: bool, table: Array, start: int, space: int, region: Any) -> Any:
    if by_rows:
        return gather_rows(table, start + 1, 2 * space, region + region)
    if space == ENTRIES:
        return look_up(table, start + space, region)
    return gather(table, start + space, region)


@cache
def forward_of(even: bool, by_rows: bool, dtype: type) -> Loop:
    """Values."""

    def forward(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        x, y = carray(pointer(job[X]), job[SIZE], dtype), carray(pointer(job[OUT]), job[SIZE], dtype)
        size, channels, inner, units, tasks = job[SIZE], job[CHANNELS], job[INNER], job[UNITS], job[TASKS]
        regions = job[ROWS] // 2
        head, space = (HEAD if even else regions - 1) * channels, space_of(by_rows, regions)
        table = carray(pointer(job[TABLE]), head + 2 * space * channels, np.float32)
        task = take(job)
        while task < tasks:
            for unit in range(task * units // tasks, (task + 1) * units // tasks):
                start, stop, c = unit_of(by_rows, unit, size, inner, channels)
                for i in range(start, stop, WIDTH):
                    if FETCHES:
                        prefetch(x, i + AHEAD)
                    at = i - start if by_rows else c
                    region, far = _place(even, by_rows, load(x, i, stop), table, at, channels, regions)
                    base, slope = _line(by_rows, table, head + 2 * space * at, space, region)
                    store(y, i, stop, base + far * slope)
            task = take(job)

    return compiled(forward)


@inline
def _count(region: Array, grads: Array, parts: Array, added: Array, regions: int, height: int, columns: int) -> None:
    """Add gradients, and their parts of slopes, to the sums of their regions, by column."""
    weighted = (regions + GROUP) * columns
    if regions >= MANY:
        for row in range(height):
            for column in range(columns):
                i = row * columns + column
                k = np.intp(region[i]) * columns + column
                added[k] += grads[i]
                added[weighted + k] += parts[i]
        return
    for column in range(0, columns, WIDTH):
        if regions <= FEW:
            add_where(FEW, region, grads, parts, column, columns, height, 0, added, weighted)
            continue
        for first in range(0, regions, GROUP):
            add_where(GROUP, region, grads, parts, column, columns, height, first, added, weighted)


@inline
def _regions(
    even: bool, by_rows: bool, table: Array, at: int, head: int, space: int, channels: int, regions: int, grad: Any,
    x: Any,
) -> Any:  # fmt: skip
    """The gradient of x, the region of x, and how far x is from its anchor."""
    region, far = _place(even, by_rows, x, table, at, channels, regions)
    return grad * _slope(by_rows, table, head + 2 * space * at, space, region), region, far


@inline
def _keep(region: Array, grads: Array, parts: Array, at: int, grad: Any, k: Any, far: Any) -> None:
    """Note what is added to the sums of which region."""
    store(region, at, at + WIDTH, k)
    store(grads, at, at + WIDTH, grad)
    store(parts, at, at + WIDTH, grad * far)


@cache
def backward_of(even: bool, by_rows: bool, dtype: type, of_grad: type) -> Loop:
    """Gradients of x, and sums for those of the parameters; the gradient that comes in has a type of its own."""

    def by_runs_of_a_channel(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        g, x, out = (
            carray(pointer(job[GRAD]), job[SIZE], of_grad),
            carray(pointer(job[X]), job[SIZE], dtype),
            carray(pointer(job[OUT]), job[SIZE], dtype),
        )
        size, channels, inner, units, tasks = job[SIZE], job[CHANNELS], job[INNER], job[UNITS], job[TASKS]
        regions = job[ROWS] // 2
        head, space = (HEAD if even else regions - 1) * channels, space_of(False, regions)
        table = carray(pointer(job[TABLE]), head + 2 * space * channels, np.float32)
        sums = carray(pointer(job[SUMS]), (tasks, job[ROWS], channels), np.float64)
        region, grads, parts = np.empty(KEPT, np.float32), np.empty(KEPT, np.float32), np.empty(KEPT, np.float32)
        added = np.empty(2 * (regions + GROUP) * WIDTH, np.float32)
        # Short runs of one channel, each of another image, are processed together.
        pieces, rows = (inner + PIECE - 1) // PIECE, (min(inner, PIECE) + WIDTH - 1) // WIDTH
        together, each = max(1, MOST // rows), channels * pieces
        ahead = AHEAD if together == 1 else 2 * channels * inner
        task = take(job)
        while task < tasks:
            first, last = task * units // tasks, (task + 1) * units // tasks
            for image in range(first // each, (last + each - 1) // each, together):
                for own in range(each):
                    c, height = own // pieces, 0
                    added[:] = ZERO
                    for unit in range(image * each + own, min((image + together) * each, last), each):
                        if unit < first:
                            continue
                        start, stop, _ = unit_of(False, unit, size, inner, channels)
                        for part in range(start, stop, KEPT):
                            end = min(part + KEPT, stop)
                            if height * WIDTH + end - part > KEPT:
                                _count(region, grads, parts, added, regions, height, WIDTH)
                                height = 0
                            kept, whole = height * WIDTH - part, end - (end - part) % WIDTH
                            for i in range(part, whole, WIDTH):
                                prefetch(g, i + ahead)
                                prefetch(x, i + ahead)
                                grad = load(g, i, i + WIDTH)
                                of_x, k, far = _regions(
                                    even, False, table, c, head, space, channels, regions, grad, load(x, i, i + WIDTH)
                                )
                                store(out, i, i + WIDTH, of_x)
                                _keep(region, grads, parts, kept + i, grad, k, far)
                            if whole < end:
                                grad = load(g, whole, end)
                                of_x, k, far = _regions(
                                    even, False, table, c, head, space, channels, regions, grad, load(x, whole, end)
                                )
                                store(out, whole, end, of_x)
                                _keep(region, grads, parts, kept + whole, grad, k, far)
                            height += (end - part + WIDTH - 1) // WIDTH
                    _count(region, grads, parts, added, regions, height, WIDTH)
                    for k in range(2 * regions):
                        place = (k if k < regions else k + GROUP) * WIDTH
                        sums[task, k, c] += total(load(added, place, place + WIDTH))
            task = take(job)

    def by_rows_of_channels(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        g, x, out = (
            carray(pointer(job[GRAD]), job[SIZE], of_grad),
            carray(pointer(job[X]), job[SIZE], dtype),
            carray(pointer(job[OUT]), job[SIZE], dtype),
        )
        size, channels, units, tasks = job[SIZE], job[CHANNELS], job[UNITS], job[TASKS]
        regions = job[ROWS] // 2
        head, space = (HEAD if even else regions - 1) * channels, space_of(True, regions)
        table = carray(pointer(job[TABLE]), head + 2 * space * channels, np.float32)
        sums = carray(pointer(job[SUMS]), (tasks, job[ROWS], channels), np.float64)
        region, grads, parts = np.empty(KEPT, np.float32), np.empty(KEPT, np.float32), np.empty(KEPT, np.float32)
        added = np.empty(2 * (regions + GROUP) * TILE, np.float32)
        task = take(job)
        while task < tasks:
            first, last = task * units // tasks, (task + 1) * units // tasks
            for low in range(0, channels, TILE):
                columns = min(TILE, channels - low)
                for block in range(first, last, BLOCK):
                    begin, end = block * channels, min(min(block + BLOCK, last) * channels, size)
                    added[: 2 * (regions + GROUP) * columns] = ZERO
                    rows = (end - begin + channels - 1) // channels
                    most = KEPT // columns
                    for part in range(0, rows, most):
                        height = min(most, rows - part)
                        for row in range(height):
                            for column in range(0, columns, WIDTH):
                                i, at = begin + (part + row) * channels + low + column, low + column
                                if i < end:
                                    prefetch(g, i + AHEAD)
                                    prefetch(x, i + AHEAD)
                                    grad = load(g, i, end)
                                    of_x, k, far = _regions(
                                        even, True, table, at, head, space, channels, regions, grad, load(x, i, end)
                                    )
                                    store(out, i, end, of_x)
                                else:
                                    grad, k, far = lanes(ZERO), lanes(ZERO), lanes(ZERO)
                                _keep(region, grads, parts, row * columns + column, grad, k, far)
                        _count(region, grads, parts, added, regions, height, columns)
                    for k in range(2 * regions):
                        place = (k if k < regions else k + GROUP) * columns
                        for column in range(columns):
                            sums[task, k, low + column] += added[place + column]
            task = take(job)

    return compiled(by_rows_of_channels if by_rows else by_runs_of_a_channel)
