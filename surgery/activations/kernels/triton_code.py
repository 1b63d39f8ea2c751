"""Triton code for the GPU: one program per group of channels and part of the tensor; each pass reads x once.

A tensor is, in the order of its memory, (outer, channels, inner). There are two cases at compile time:
`PLANES`, where inner numbers in a row belong to one channel, so that its parameters are scalars; and rows, where inner
is 1 and neighbours belong to neighbouring channels. Either way a program works on tiles of (R, L) numbers, L of them
neighbours in memory, and whatever is summed stays in registers until its last tile. `V` divides the number of
neighbours, which lets the compiler read several at once. Arithmetic is in float32.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import triton
import triton.language as tl


@triton.jit
def _place(
    tile, group, outer, channels, vectors,
    V: tl.constexpr, R: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Where the numbers of a tile are, and which of them exist."""
    if WIDE:
        tile, group, vectors = tl.cast(tile, tl.int64), tl.cast(group, tl.int64), tl.cast(vectors, tl.int64)
    row, lane = tl.arange(0, R), tl.arange(0, L)
    width = vectors * V
    if PLANES:
        across = tl.cdiv(width, L)
        row = tile // across * R + row
        lane = tile % across * L + lane
        at = group * width + row[:, None] * (channels * width) + lane[None, :]
    else:
        row = tile * R + row
        lane = group * L + lane
        at = row[:, None] * width + lane[None, :]
    return at, (row[:, None] < outer) & (lane[None, :] < width)


@triton.jit
def _param(pointer, group, channels, OTHER: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr):
    """A parameter of the channel, or of the channels, of a group; OTHER where there is no channel."""
    if PLANES:
        value = tl.load(pointer + group).to(tl.float32)
    else:
        lane = group * L + tl.arange(0, L)
        value = tl.load(pointer + lane, mask=lane < channels, other=OTHER).to(tl.float32)[None, :]
    return value


@triton.jit
def _store(pointer, row, sums, group, channels, L: tl.constexpr, PLANES: tl.constexpr):
    """Write a row of sums over a tile, (R, L), into the table of all rows."""
    if PLANES:
        tl.store(pointer + row * channels + group, tl.sum(sums))
    else:
        lane = group * L + tl.arange(0, L)
        tl.store(pointer + row * channels + lane, tl.sum(sums, 0), mask=lane < channels)


@triton.jit
def _joint(x, beta):
    """How far x is through the joint of a SmeLU; not by minimum and maximum, which lose a NaN."""
    return tl.where(x <= -beta, 0.0, tl.where(x >= beta, 1.0, (x + beta) / (2 * beta)))


@triton.jit
def _value(x, first, second, KIND: tl.constexpr):
    if KIND == "prelu":
        y = tl.where(x > 0, x, x * first)
    elif KIND == "frelu":
        y = x * tl.where(x > 0, first, second)
    elif KIND == "smelu":
        share = _joint(x, first)
        y = share * (tl.maximum(x, -first) + first - share * first)
    elif KIND == "affine":
        y = x * first + second
    else:
        tl.static_assert(KIND == "swish")
        y = x * tl.sigmoid(first * x)
    return y


@triton.jit
def _gradients(g, x, first, second, KIND: tl.constexpr):
    """The gradients of x, of the first and of the second parameter."""
    of_second = tl.zeros_like(x)
    if KIND == "prelu":
        of_x = tl.where(x > 0, g, g * first)
        of_first = tl.where(x > 0, 0.0, g * x)
    elif KIND == "frelu":
        of_x = g * tl.where(x > 0, first, second)
        of_first = tl.where(x > 0, g * x, 0.0)
        of_second = tl.where(x > 0, 0.0, g * x)
    elif KIND == "smelu":
        share = _joint(x, first)
        of_x = g * share
        of_first = of_x * (1 - share)
    elif KIND == "affine":
        of_x = g * first
        of_first = g * x
        of_second = g
    else:
        tl.static_assert(KIND == "swish")
        gate = tl.sigmoid(first * x)
        bend = x * gate * (1 - gate)
        of_x = g * (gate + first * bend)
        of_first = g * x * bend
    return of_x, of_first, of_second


@triton.jit
def lines_forward(
    x_at, y_at, first_at, second_at, outer, channels, vectors, tiles, share,
    KIND: tl.constexpr, V: tl.constexpr, R: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Values of a function with one or two parameters per channel."""
    group, split = tl.program_id(0), tl.program_id(1)
    first = _param(first_at, group, channels, 1.0, L, PLANES)
    second = _param(second_at, group, channels, 1.0, L, PLANES)
    for tile in range(split * share, tl.minimum(split * share + share, tiles)):
        at, there = _place(tile, group, outer, channels, vectors, V, R, L, PLANES, WIDE)
        x = tl.load(x_at + at, mask=there, other=0.0).to(tl.float32)
        tl.store(y_at + at, _value(x, first, second, KIND).to(y_at.dtype.element_ty), mask=there)


@triton.jit
def lines_backward(
    grad_at, x_at, of_x_at, sums_at, first_at, second_at, outer, channels, vectors, tiles, share,
    KIND: tl.constexpr, K: tl.constexpr, V: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    PLANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and one table of sums (K, channels) of those of the parameters per split."""
    group, split = tl.program_id(0), tl.program_id(1)
    first = _param(first_at, group, channels, 1.0, L, PLANES)
    second = _param(second_at, group, channels, 1.0, L, PLANES)
    firsts = tl.zeros((R, L), tl.float32)
    seconds = tl.zeros((R, L), tl.float32)
    for tile in range(split * share, tl.minimum(split * share + share, tiles)):
        at, there = _place(tile, group, outer, channels, vectors, V, R, L, PLANES, WIDE)
        x = tl.load(x_at + at, mask=there, other=0.0).to(tl.float32)
        g = tl.load(grad_at + at, mask=there, other=0.0).to(tl.float32)
        of_x, of_first, of_second = _gradients(g, x, first, second, KIND)
        firsts += of_first
        seconds += of_second
        tl.store(of_x_at + at, of_x.to(of_x_at.dtype.element_ty), mask=there)
    _store(sums_at, split * K, firsts, group, channels, L, PLANES)
    if K == 2:
        _store(sums_at, split * K + 1, seconds, group, channels, L, PLANES)


@triton.jit
def _intervals(
    heights_at, group, channels, N: tl.constexpr, KNOTS: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr
):
    """The height at the left end of each interval, and the step to its right end: (KNOTS) or (KNOTS, L)."""
    knot = tl.arange(0, KNOTS)
    if PLANES:
        at = heights_at + knot * channels + group
        there = knot < N
    else:
        lane = group * L + tl.arange(0, L)
        at = heights_at + knot[:, None] * channels + lane[None, :]
        there = (knot[:, None] < N) & (lane[None, :] < channels)
    low = tl.load(at, mask=there, other=0.0).to(tl.float32)
    high = tl.load(at + channels, mask=there, other=0.0).to(tl.float32)
    return low, high - low


@triton.jit
def _taken(table, index, R: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr):
    """The entry of a table for each number of a tile."""
    if PLANES:
        entry = tl.reshape(tl.gather(table, tl.reshape(index, (R * L,)), 0), (R, L))
    else:
        entry = tl.gather(table, index, 0)
    return entry


@triton.jit
def _interval(x, below, above, left, scale, N: tl.constexpr):
    """The interval of x (0 where outside) and where it stands, counted in intervals from the left bound."""
    position = (x - left) * scale
    inside = tl.where(below | above | (x != x), 0.0, position)
    return position, tl.minimum(tl.maximum(inside, 0.0), N - 1.0).to(tl.int32)


@triton.jit
def pwlu_forward(
    x_at, y_at, heights_at, left_at, right_at, low_slope_at, high_slope_at, outer, channels, vectors, tiles, share,
    N: tl.constexpr, KNOTS: tl.constexpr, V: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    PLANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Values of a PWLU of N intervals; KNOTS is the next power of two."""
    group, split = tl.program_id(0), tl.program_id(1)
    left = _param(left_at, group, channels, 0.0, L, PLANES)
    right = _param(right_at, group, channels, 1.0, L, PLANES)
    low_slope = _param(low_slope_at, group, channels, 1.0, L, PLANES)
    high_slope = _param(high_slope_at, group, channels, 1.0, L, PLANES)
    lowest = _param(heights_at, group, channels, 1.0, L, PLANES)
    highest = _param(heights_at + N * channels, group, channels, 1.0, L, PLANES)
    lows, steps = _intervals(heights_at, group, channels, N, KNOTS, L, PLANES)
    scale = N / (right - left)
    for tile in range(split * share, tl.minimum(split * share + share, tiles)):
        at, there = _place(tile, group, outer, channels, vectors, V, R, L, PLANES, WIDE)
        x = tl.load(x_at + at, mask=there, other=0.0).to(tl.float32)
        below, above = x < left, x >= right
        position, index = _interval(x, below, above, left, scale, N)
        low, step = _taken(lows, index, R, L, PLANES), _taken(steps, index, R, L, PLANES)
        inner = low + (position - index) * step
        outside = tl.where(below, lowest + (x - left) * low_slope, highest + (x - right) * high_slope)
        y = tl.where(below | above, outside, inner)
        tl.store(y_at + at, y.to(y_at.dtype.element_ty), mask=there)


@triton.jit
def pwlu_backward(
    grad_at, x_at, of_x_at, sums_at, heights_at, left_at, right_at, low_slope_at, high_slope_at,
    outer, channels, vectors, tiles, share,
    N: tl.constexpr, KNOTS: tl.constexpr, V: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
    PLANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and per split one table of sums (N + 5, channels): heights, left, right and both slopes.

    A height's gradient is a difference of two neighbouring sums of grad * clamp(position - k, 0, 1), which need
    neither an index nor atomic additions. They are kept apart in every thread (knots first, so that no two threads
    share one) until the last tile.
    """
    group, split = tl.program_id(0), tl.program_id(1)
    left = _param(left_at, group, channels, 0.0, L, PLANES)
    right = _param(right_at, group, channels, 1.0, L, PLANES)
    low_slope = _param(low_slope_at, group, channels, 1.0, L, PLANES)
    high_slope = _param(high_slope_at, group, channels, 1.0, L, PLANES)
    _, steps = _intervals(heights_at, group, channels, N, KNOTS, L, PLANES)
    scale = N / (right - left)
    knots = tl.arange(0, KNOTS)[:, None, None]
    ramps = tl.zeros((KNOTS, R, L), tl.float32)
    total = tl.zeros((R, L), tl.float32)
    lefts = tl.zeros((R, L), tl.float32)
    rights = tl.zeros((R, L), tl.float32)
    low_slopes = tl.zeros((R, L), tl.float32)
    high_slopes = tl.zeros((R, L), tl.float32)
    for tile in range(split * share, tl.minimum(split * share + share, tiles)):
        at, there = _place(tile, group, outer, channels, vectors, V, R, L, PLANES, WIDE)
        x = tl.load(x_at + at, mask=there, other=0.0).to(tl.float32)
        g = tl.load(grad_at + at, mask=there, other=0.0).to(tl.float32)
        below, above = x < left, x >= right
        position, index = _interval(x, below, above, left, scale, N)
        slope = _taken(steps, index, R, L, PLANES) * scale
        of_x = g * tl.where(below, low_slope, tl.where(above, high_slope, slope))
        tl.store(of_x_at + at, of_x.to(of_x_at.dtype.element_ty), mask=there)
        # A bound stretches all intervals: it moves x through them by its share of the way to the other bound.
        way = position * (1.0 / N)
        lefts += tl.where(below, -of_x, tl.where(above, 0.0, of_x * (way - 1)))
        rights -= tl.where(below, 0.0, tl.where(above, of_x, of_x * way))
        low_slopes += tl.where(below, g * (x - left), 0.0)
        high_slopes += tl.where(above, g * (x - right), 0.0)
        total += g
        ramps += g[None, :, :] * tl.minimum(tl.maximum(position[None, :, :] - knots, 0.0), 1.0)
    table = sums_at + split * (N + 5) * channels
    _store_heights(table, ramps, total, lefts, group, channels, N, KNOTS, R, L, PLANES)
    _store(table, N + 1, lefts, group, channels, L, PLANES)
    _store(table, N + 2, rights, group, channels, L, PLANES)
    _store(table, N + 3, low_slopes, group, channels, L, PLANES)
    _store(table, N + 4, high_slopes, group, channels, L, PLANES)


@triton.jit
def _store_heights(
    table, ramps, total, lefts, group, channels,
    N: tl.constexpr, KNOTS: tl.constexpr, R: tl.constexpr, L: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the N + 1 heights: each the sum of the ramp before it less that of its own."""
    knot = tl.arange(0, KNOTS)
    if PLANES:
        sums = tl.sum(tl.reshape(ramps, (KNOTS, R * L)), 1)
        everything, bound = tl.sum(total), tl.sum(lefts)
        at, there = table + knot * channels + group, knot < N
    else:
        sums = tl.sum(ramps, 1)
        everything, bound = tl.sum(total, 0)[None, :], tl.sum(lefts, 0)[None, :]
        lane = group * L + tl.arange(0, L)
        at = table + knot[:, None] * channels + lane[None, :]
        there = (knot[:, None] < N) & (lane[None, :] < channels)
        knot = tl.broadcast_to(knot[:, None], (KNOTS, L))
    # A NaN is in the first interval, as in the formula; the ramps lose it, the gradient of the bound does not.
    bounds = tl.zeros_like(sums) + bound
    sums = tl.where((knot == 0) & (bounds != bounds), bounds, sums)
    before = tl.where(knot == 0, everything, tl.gather(sums, tl.maximum(knot - 1, 0), 0))
    tl.store(at, before - sums, mask=there)
    tl.store(at + channels, sums, mask=there & (knot == N - 1))
