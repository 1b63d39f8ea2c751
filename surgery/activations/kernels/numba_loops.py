"""Loops compiled by numba: the elementwise functions with up to two parameters.

A tensor is traversed in memory order, in units. Either a channel is contiguous (NCHW): then parameters are scalars and
units are pieces of the channel's runs; or channels are adjacent (channels_last): then parameters are rows, repeated
until lanes divide them, and units are rows. All arithmetic is float32. Gradients of parameters are summed in float32
within a piece or a few hundred rows, and in float64 beyond. Units are divided evenly among the tasks, each of which
accumulates its own sums (rows, channels).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from numba import carray, njit

from surgery.activations.kernels.numba_lanes import (
    FETCHES,
    WIDTH,
    lanes,
    load,
    pointer,
    power_of_two,
    prefetch,
    store,
    take,
    total,
    where,
)
from surgery.activations.kernels.numba_tasks import (
    CHANNELS,
    FIELDS,
    GRAD,
    INNER,
    OUT,
    ROWS,
    SECOND,
    SIZE,
    SUMS,
    TABLE,
    TASKS,
    UNITS,
    Loop,
    X,
    compiled,
)

Array = np.ndarray[Any, Any]
Code = TypeVar("Code", bound=Callable[..., Any])
f32 = np.float32

PIECE = 4096  # elements of one channel that are processed together
PART = 1024  # elements of one channel whose gradients are summed in float32
BLOCK = 256  # rows, likewise
AHEAD = 1024  # elements that are fetched before they are needed
SHEAF = 16  # rows whose gradients are summed in a register
# Channels; of wider rows, one after the other is read faster than the same part of several. AMD's processors foresee
# only the former, or what is without gaps.
NARROW = 64 if FETCHES else WIDTH

PRELU, FRELU, SMELU, SWISH, AFFINE = range(5)
OF_TWO = (FRELU, AFFINE)  # those with two parameters

ZERO, HALF, ONE = f32(0), f32(0.5), f32(1)
LEAST, MOST = f32(-86), f32(89)  # from the latter on, the exponential is infinite
LOG2E, LN2_HIGH, LN2_LOW = f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
ROUND = f32(12582912)  # 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
# Of the polynomial that is nearest to the exponential within half of ln 2: it is off by 9e-8 at most.
NEAREST = tuple(map(f32, (0.00829014368, 0.04189885035, 0.1666764468, 0.49999141693, 0.99999970198, 1.0)))


def inline(code: Code) -> Code:
    """Part of a loop."""
    return cast(Code, njit(error_model="numpy", forceinline=True)(code))


@inline
def _exp(z: Any) -> Any:
    """2^n e^r, with r within half of ln 2."""
    z = where(z < LEAST, LEAST, z)
    z = where(z > MOST, MOST, z)
    shifted = z * LOG2E + ROUND
    n = shifted - ROUND
    r = z - n * LN2_HIGH - n * LN2_LOW
    power = lanes(NEAREST[0])
    for k in range(1, 6):
        power = power * r + NEAREST[k]
    return power * power_of_two(shifted)


@inline
def _joint(x: Any, beta: Any) -> Any:
    risen = where(x < ZERO - beta, ZERO - beta, x) + beta
    share = risen * (HALF / beta)
    return risen, where(share > ONE, ONE, share)


@inline
def _value(kind: int, x: Any, a: Any, b: Any) -> Any:
    if kind == PRELU:
        return x * where(x > ZERO, ONE, a)
    if kind == FRELU:
        return x * where(x > ZERO, a, b)
    if kind == SMELU:
        risen, share = _joint(x, a)
        return share * (risen - share * a)
    if kind == SWISH:
        return x * (ONE / (ONE + _exp((ZERO - a) * x)))
    return x * a + b


@inline
def _gradients(kind: int, grad: Any, x: Any, a: Any, b: Any) -> Any:
    """The gradient of x, and what this element adds to those of the parameters."""
    if kind == PRELU:
        right, product = x > ZERO, grad * x
        return grad * where(right, ONE, a), where(right, ZERO, product), product
    if kind == FRELU:
        right, product = x > ZERO, grad * x
        return grad * where(right, a, b), where(right, product, ZERO), where(right, ZERO, product)
    if kind == SMELU:
        share = _joint(x, a)[1]
        part = grad * share
        return part, part * (ONE - share), part
    if kind == SWISH:
        gate = ONE / (ONE + _exp((ZERO - a) * x))
        bend = x * gate * (ONE - gate)
        return grad * (gate + a * bend), grad * x * bend, gate
    return grad * a, grad * x, grad


@inline
def unit_of(by_rows: bool, unit: int, size: int, inner: int, channels: int) -> Any:
    """The start and end of a unit, and its channel."""
    if by_rows:
        return unit * channels, min((unit + 1) * channels, size), 0
    pieces = (inner + PIECE - 1) // PIECE
    run = unit // pieces
    start = run * inner + unit % pieces * PIECE
    return start, min(start + PIECE, (run + 1) * inner), run % channels


@inline
def entry(by_rows: bool, table: Array, at: int) -> Any:
    """What the table has for these lanes: neighbours, or one number for all."""
    return load(table, at, at + WIDTH) if by_rows else lanes(table[at])


@cache
def forward_of(kind: int, by_rows: bool, dtype: type) -> Loop:
    """Values."""

    def forward(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        x, y = carray(pointer(job[X]), job[SIZE], dtype), carray(pointer(job[OUT]), job[SIZE], dtype)
        size, channels, inner, units, tasks = job[SIZE], job[CHANNELS], job[INNER], job[UNITS], job[TASKS]
        first = carray(pointer(job[TABLE]), channels, np.float32)
        second = carray(pointer(job[SECOND]), channels, np.float32)
        task = take(job)
        while task < tasks:
            for unit in range(task * units // tasks, (task + 1) * units // tasks):
                start, stop, c = unit_of(by_rows, unit, size, inner, channels)
                for i in range(start, stop, WIDTH):
                    if FETCHES:
                        prefetch(x, i + AHEAD)
                    at = i - start if by_rows else c
                    a, b = entry(by_rows, first, at), entry(by_rows, second, at)
                    store(y, i, stop, _value(kind, load(x, i, stop), a, b))
            task = take(job)

    return compiled(forward)


@cache
def backward_of(kind: int, by_rows: bool, dtype: type, of_grad: type) -> Loop:
    """Gradients of x, and sums for those of the parameters; the gradient that comes in has a type of its own."""
    two = kind in OF_TWO

    def by_runs_of_a_channel(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        g, x, out = (
            carray(pointer(job[GRAD]), job[SIZE], of_grad),
            carray(pointer(job[X]), job[SIZE], dtype),
            carray(pointer(job[OUT]), job[SIZE], dtype),
        )
        size, channels, inner, units, tasks = job[SIZE], job[CHANNELS], job[INNER], job[UNITS], job[TASKS]
        first = carray(pointer(job[TABLE]), channels, np.float32)
        second = carray(pointer(job[SECOND]), channels, np.float32)
        sums = carray(pointer(job[SUMS]), (tasks, job[ROWS], channels), np.float64)
        task = take(job)
        while task < tasks:
            for unit in range(task * units // tasks, (task + 1) * units // tasks):
                start, stop, c = unit_of(False, unit, size, inner, channels)
                a, b = first[c], second[c]
                for low in range(start, stop, PART):
                    of_a, of_b = lanes(ZERO), lanes(ZERO)
                    end = min(low + PART, stop)
                    whole = end - (end - low) % WIDTH
                    for i in range(low, whole, WIDTH):
                        if FETCHES:
                            prefetch(g, i + AHEAD)
                            prefetch(x, i + AHEAD)
                        of_x, part_a, part_b = _gradients(kind, load(g, i, i + WIDTH), load(x, i, i + WIDTH), a, b)
                        store(out, i, i + WIDTH, of_x)
                        of_a, of_b = of_a + part_a, of_b + part_b
                    if whole < end:
                        of_x, part_a, part_b = _gradients(kind, load(g, whole, end), load(x, whole, end), a, b)
                        store(out, whole, end, of_x)
                        of_a, of_b = of_a + part_a, of_b + part_b
                    sums[task, 0, c] += total(of_a)
                    if two:
                        sums[task, 1, c] += total(of_b)
            task = take(job)

    def by_rows_of_channels(address):  # type: ignore[no-untyped-def]
        job = carray(address, FIELDS)
        g, x, out = (
            carray(pointer(job[GRAD]), job[SIZE], of_grad),
            carray(pointer(job[X]), job[SIZE], dtype),
            carray(pointer(job[OUT]), job[SIZE], dtype),
        )
        size, channels, units, tasks = job[SIZE], job[CHANNELS], job[UNITS], job[TASKS]
        first = carray(pointer(job[TABLE]), channels, np.float32)
        second = carray(pointer(job[SECOND]), channels, np.float32)
        sums = carray(pointer(job[SUMS]), (tasks, job[ROWS], channels), np.float64)
        added = np.empty(2 * channels, np.float32)
        rows = SHEAF if channels <= NARROW else 1
        task = take(job)
        while task < tasks:
            last = (task + 1) * units // tasks
            for block in range(task * units // tasks, last, BLOCK):
                added[:] = ZERO
                end = min(block + BLOCK, last)
                for sheaf in range(block, end, rows):
                    for at in range(0, channels, WIDTH):
                        a, b = entry(True, first, at), entry(True, second, at)
                        of_a, of_b = entry(True, added, at), entry(True, added, channels + at)
                        for i in range(sheaf * channels + at, min(min(sheaf + rows, end) * channels, size), channels):
                            if kind == SWISH and FETCHES:  # too long for the processor to look far ahead itself
                                prefetch(g, i + rows * channels)
                                prefetch(x, i + rows * channels)
                            of_x, part_a, part_b = _gradients(kind, load(g, i, size), load(x, i, size), a, b)
                            store(out, i, size, of_x)
                            of_a, of_b = of_a + part_a, of_b + part_b
                        store(added, at, at + WIDTH, of_a)
                        store(added, channels + at, channels + at + WIDTH, of_b)
                for c in range(channels):
                    sums[task, 0, c] += added[c]
                    if two:
                        sums[task, 1, c] += added[channels + c]
            task = take(job)

    return compiled(by_rows_of_channels if by_rows else by_runs_of_a_channel)
