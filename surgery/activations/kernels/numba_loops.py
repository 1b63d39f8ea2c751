"""Loops compiled by numba: the elementwise functions with up to two parameters, by runs of a channel or by rows of it.

A tensor is traversed in memory order. Either a channel is contiguous (NCHW): then parameters are scalars and a run is
cut into pieces; or channels are adjacent (channels_last): then parameters are rows. All arithmetic is float32.
Gradients of parameters are summed in float32 within a piece or a few hundred rows, and in float64 beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.extending import overload

Array = np.ndarray[Any, Any]
Code = TypeVar("Code", bound=Callable[..., Any])
f32 = np.float32

PIECE = 4096  # elements of one channel whose gradients are summed in float32
ROWS = 256  # rows, likewise
TILE = 512  # channels that are processed together

FRELU, SMELU, SWISH, AFFINE = range(4)

ZERO, HALF, ONE, INFINITY = f32(0), f32(0.5), f32(1), f32(np.inf)
LEAST, MOST = f32(-86), f32(88)  # arguments whose exponential is a normal float32
LOG2E, LN2_HIGH, LN2_LOW = f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
ROUND = f32(12582912)  # 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
TAYLOR = tuple(f32(1 / factor) for factor in (720, 120, 24, 6, 2, 1, 1))


def compiled(*flags: str, inline: bool = False) -> Callable[[Code], Code]:
    """Compile at the first call and cache the result on disk, if there is a writable folder.

    The cache is invalidated when the file of the loop itself changes; numba does not notice changes of the functions
    below that other files use.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(flags), "forceinline": inline}

    def compile(code: Code) -> Code:
        compiled: Any
        try:
            compiled = njit(cache=not inline, **options)(code)
        except RuntimeError:  # no folder can be written
            compiled = njit(**options)(code)
        return cast(Code, compiled)

    return compile


# Sums may be reordered, so that they are done in vectors; nothing else may.
loop = compiled("reassoc", "contract")
inline = compiled("contract", inline=True)


def load(values: Array, i: int) -> Any:
    """Element i as float32; a bfloat16 is the upper half of one."""


def store(values: Array, i: int, value: Any) -> None:
    """Write a float32 to element i, rounded to the nearest, to even in a tie."""


@overload(load, jit_options={"forceinline": True})
def _load_as(values, i):  # type: ignore[no-untyped-def]
    if values.dtype == types.uint16:
        return lambda values, i: np.uint32(np.uint32(values[i]) << 16).view(np.float32)
    return lambda values, i: values[i]


@overload(store, jit_options={"forceinline": True})
def _store_as(values, i, value):  # type: ignore[no-untyped-def]
    def half(values, i, value):  # type: ignore[no-untyped-def]
        bits = np.float32(value).view(np.uint32)
        rounded = np.uint32(bits + np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> 16) & 1)) >> 16
        values[i] = np.uint16(0x7FC0) if value != value else np.uint16(rounded)

    def whole(values, i, value):  # type: ignore[no-untyped-def]
        values[i] = value

    return half if values.dtype == types.uint16 else whole


@inline
def _exp(z: Any) -> Any:
    """2^n e^r, with r within half of ln 2: in operations that all have a vector form."""
    z = LEAST if z < LEAST else z
    huge = z > MOST
    z = MOST if huge else z
    shifted = z * LOG2E + ROUND
    n = shifted - ROUND
    r = z - n * LN2_HIGH - n * LN2_LOW
    power = TAYLOR[0]
    for k in range(1, 7):
        power = power * r + TAYLOR[k]
    scale = np.int32((np.int64(np.float32(shifted).view(np.int32)) << 23) + 0x3F800000).view(np.float32)
    return INFINITY if huge else power * scale


@inline
def _joint(x: Any, beta: Any) -> Any:
    risen = (-beta if x < -beta else x) + beta
    share = risen * (HALF / beta)
    return risen, ONE if share > ONE else share


@inline
def _value(kind: int, x: Any, a: Any, b: Any) -> Any:
    if kind == FRELU:
        return x * (a if x > ZERO else b)
    if kind == SMELU:
        risen, share = _joint(x, a)
        return share * (risen - share * a)
    if kind == SWISH:
        return x * (ONE / (ONE + _exp(-a * x)))
    return x * a + b


@inline
def _gradients(kind: int, grad: Any, x: Any, a: Any, b: Any) -> Any:
    """The gradient of x, and what this element adds to those of the parameters."""
    if kind == FRELU:
        right, product = x > ZERO, grad * x
        return grad * (a if right else b), product if right else ZERO, ZERO if right else product
    if kind == SMELU:
        share = _joint(x, a)[1]
        part = grad * share
        return part, part * (ONE - share), ZERO
    if kind == SWISH:
        gate = ONE / (ONE + _exp(-a * x))
        bend = x * gate * (ONE - gate)
        return grad * (gate + a * bend), grad * x * bend, ZERO
    return grad * a, grad * x, grad


@inline
def piece(unit: int, inner: int, channels: int) -> Any:
    """The start and end of a piece of a run, and its channel."""
    pieces = (inner + PIECE - 1) // PIECE
    run = unit // pieces
    start = run * inner + unit % pieces * PIECE
    return start, min(start + PIECE, (run + 1) * inner), run % channels


class Loops(NamedTuple):
    """The two passes of a function over flat arrays, for the tasks from `first` to before `last` of all `tasks`.

    `units`, the pieces or rows of x, are divided evenly among the tasks, and each task accumulates its own `sums`
    (rows, channels), so the result is the same for any number of threads.
    """

    forward: Any
    backward: Any


@cache
def runs(kind: int) -> Loops:
    """For tensors in which a channel is a run of `inner` neighbours."""

    @loop
    def forward(x, y, table, channels, inner, units, tasks, first, last):  # type: ignore[no-untyped-def]
        for unit in range(first * units // tasks, last * units // tasks):
            start, stop, c = piece(unit, inner, channels)
            a, b = table[0, c], table[1, c]
            xs, ys = x[start:stop], y[start:stop]
            for i in range(xs.size):
                store(ys, i, _value(kind, load(xs, i), a, b))

    @loop
    def backward(grad, x, out, table, channels, inner, units, sums, first, last):  # type: ignore[no-untyped-def]
        for task in range(first, last):
            for unit in range(task * units // len(sums), (task + 1) * units // len(sums)):
                start, stop, c = piece(unit, inner, channels)
                a, b = table[0, c], table[1, c]
                gs, xs, outs = grad[start:stop], x[start:stop], out[start:stop]
                of_a, of_b = ZERO, ZERO
                for i in range(xs.size):
                    of_x, part_a, part_b = _gradients(kind, load(gs, i), load(xs, i), a, b)
                    store(outs, i, of_x)
                    of_a += part_a
                    of_b += part_b
                sums[task, 0, c] += of_a
                sums[task, 1, c] += of_b

    return Loops(forward, backward)


@cache
def rows(kind: int) -> Loops:
    """For tensors in which the channels are neighbours."""

    @loop
    def forward(x, y, table, channels, inner, units, tasks, first, last):  # type: ignore[no-untyped-def]
        a, b = table[0], table[1]
        for row in range(first * units // tasks, last * units // tasks):
            xs, ys = x[row * channels : (row + 1) * channels], y[row * channels : (row + 1) * channels]
            for i in range(xs.size):
                store(ys, i, _value(kind, load(xs, i), a[i], b[i]))

    @loop
    def backward(grad, x, out, table, channels, inner, units, sums, first, last):  # type: ignore[no-untyped-def]
        # Parameters and sums in one array, so that the compiler need not assume that they overlap.
        work = np.empty(4 * TILE, f32)
        for task in range(first, last):
            start, stop = task * units // len(sums), (task + 1) * units // len(sums)
            for low in range(0, channels, TILE):
                width = min(TILE, channels - low)
                for i in range(width):
                    work[i], work[TILE + i] = table[0, low + i], table[1, low + i]
                for block in range(start, stop, ROWS):
                    for i in range(2 * TILE, 4 * TILE):
                        work[i] = ZERO
                    for row in range(block, min(block + ROWS, stop)):
                        at = row * channels + low
                        gs, xs, outs = grad[at : at + width], x[at : at + width], out[at : at + width]
                        for i in range(xs.size):
                            of_x, part_a, part_b = _gradients(kind, load(gs, i), load(xs, i), work[i], work[TILE + i])
                            store(outs, i, of_x)
                            work[2 * TILE + i] += part_a
                            work[3 * TILE + i] += part_b
                    for i in range(width):
                        sums[task, 0, low + i] += work[2 * TILE + i]
                        sums[task, 1, low + i] += work[3 * TILE + i]

    return Loops(forward, backward)
