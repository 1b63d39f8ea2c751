"""Piecewise linear functions: values, all gradients from one pass over x, and the best fit to another function.

Knots B_0 < ... < B_N divide the real line into N + 2 regions, the outer two unbounded. In region r the value is
base_r + slope_r (x - anchor_r), where the anchor is the knot at its left end (B_0 for the leftmost). In this form,
unlike slope x + offset, nothing cancels, and with a knot at zero ReLU is exact, except for values that are negligible
relative to the bounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.activations.dispatch import Function
from surgery.activations.exported import shaped
from surgery.activations.input_stats import Elementwise, InputStats
from surgery.errors import BadValue

PER_INTERVAL = 16  # points per interval at which a fit is evaluated
FLOOR = 1e-4  # minimum distance of the bounds, relative to 1 + |left bound|
WIDE = 3.0  # bounds lie this many standard deviations from the mean
_FAR = 2.0**14  # beyond the corners of any clipped ReLU, and representable in every dtype


def apart(left: Tensor, right: Tensor, least: float = FLOOR) -> Tensor:
    """The right bound, moved as far as is needed to stay right of the left one; gradients can still separate them."""
    low, high = left.detach(), right.detach()
    return right + (least * (1 + low.abs()) - (high - low)).clamp_min(0.0)


def along(x: Tensor, region: Tensor, anchors: Tensor, bases: Tensor, slopes: Tensor) -> Tensor:
    """The value at x (..., C), given its region and the three tables, one row per region: (N + 2, C) or (N + 2, 1)."""
    return taken(bases, region) + (x - taken(anchors, region)) * taken(slopes, region)


def taken(table: Tensor, region: Tensor) -> Tensor:
    """Entries of a table (R, C), one per element of an index (..., C)."""
    channels = region.shape[-1]
    return table.expand(-1, channels).gather(0, region.reshape(-1, channels)).reshape(region.shape)


def summed(values: Tensor, region: Tensor, size: int) -> Tensor:
    """Sums (size, C) of the values (..., C) with the same index."""
    channels = values.shape[-1]
    rows = region.reshape(-1, channels)
    return values.new_zeros(size, channels).scatter_add(0, rows, values.reshape(-1, channels))


def region_of(x: Tensor, left: Tensor, right: Tensor, intervals: int) -> Tensor:
    """The region of each x, from 0 (left of all knots) to N + 1, for equally spaced knots."""
    x, left, right = x.detach(), left.detach(), right.detach()
    place = (x - left) * (intervals / (right - left))
    # Rounding may push a value within the bounds beyond the last interval, and NaN is not a valid index.
    inside = place.nan_to_num().floor().clamp(0, intervals - 1) + 1
    return torch.where(x < left, 0.0, torch.where(x >= right, intervals + 1.0, inside)).long()


def tables(
    heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, bases and slopes (N + 2, C) of the regions, from heights (N + 1, C) and the rest (C,)."""
    intervals = heights.shape[0] - 1
    channels = max(param.shape[-1] for param in (heights, left, right, low_slope, high_slope))
    heights, begin, end, low, high = (param.expand(len(param) if param.dim() > 1 else 1, channels) for param in (
        heights, left, right, low_slope, high_slope))  # fmt: skip
    steps = torch.arange(intervals, dtype=heights.dtype, device=heights.device).unsqueeze(1)
    knots = begin + steps * ((end - begin) / intervals)
    inner = (heights[1:] - heights[:-1]) * intervals / (end - begin)
    return torch.cat([begin, knots, end]), torch.cat([heights[:1], heights]), torch.cat([low, inner, high])


def _pwlu(x: Tensor, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor) -> Tensor:
    x, right = torch.atleast_1d(x), apart(left, right)
    region = region_of(x, left, right, heights.shape[0] - 1)
    return along(x, region, *tables(heights, left, right, low_slope, high_slope))


def _pwlu_gradients(
    grad: Tensor, x: Tensor, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor
) -> tuple[Tensor, ...]:
    intervals, right = heights.shape[0] - 1, apart(left, right)
    region = region_of(x, left, right, intervals)
    anchors, _, slopes = tables(heights, left, right, low_slope, high_slope)
    of_x = grad * taken(slopes, region)

    # All other gradients follow from sums of the gradient per region, plain and weighted by the distance to its anchor.
    plain = summed(grad, region, intervals + 2)
    far = summed(grad * (x - taken(anchors, region)), region, intervals + 2)
    inner, weighted = plain[1:-1], far[1:-1] * (intervals / (right - left))
    of_heights = torch.cat([inner - weighted, plain[-1:]]) + torch.cat([plain[:1], weighted])
    steps = torch.arange(intervals, dtype=x.dtype, device=x.device).unsqueeze(1)
    place = (weighted + steps * inner) / intervals
    of_left = (slopes[1:-1] * (place - inner)).sum(0) - low_slope * plain[0]
    of_right = -(slopes[1:-1] * place).sum(0) - high_slope * plain[-1]
    return of_x, of_heights, of_left, of_right, far[0], far[-1]


def sum_of_clips(
    x: Tensor, after: int, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor
) -> Tensor:
    """A sum of clips, one per interval, of x in units of intervals. Counted from the middle, they stay small."""
    rises = (heights[1:] - heights[:-1]).unbind(0)
    below = float(len(rises) // 2)  # not an integer: for two clips between integers torch.onnx writes an invalid file
    above = len(rises) - below
    scale = len(rises) / (right - left)
    low, high = low_slope / scale, high_slope / scale
    place = (x + shaped(-left - below / scale, after)) * shaped(scale, after)
    # Not clips with one bound: pnnx does not know these.
    total = F.relu(place - above) * shaped(high, after) - F.relu(-below - place) * shaped(low, after)
    rest = heights[0]
    for number, rise in enumerate(rises):
        start = number - below
        total = total + place.clamp(start, start + 1) * shaped(rise, after)
        rest = rest - rise * start
    return total + shaped(rest, after)


def _pwlu_exported(
    x: Tensor, after: int, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor
) -> Tensor:
    return sum_of_clips(x, after, heights, left, apart(left, right), low_slope, high_slope)


PWLU = Function("pwlu", _pwlu, _pwlu_gradients, _pwlu_exported)


def bounds_for(
    function: Elementwise, stats: InputStats, intervals: int, snap: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Bounds (C,) three deviations from the mean; with `snap` adjusted so that `function`'s corners fall on knots.

    These are zero and, for a clipped ReLU, the cap. A channel with a constant input gets bounds at a distance of three
    on either side of it.
    """
    mean = stats.mean.double().nan_to_num(posinf=0.0, neginf=0.0)
    deviation = stats.deviation.double().nan_to_num(posinf=0.0)
    deviation = torch.where(deviation > 1e-4 * (1 + mean.abs()), deviation, 1.0)
    low, high = mean - WIDE * deviation, mean + WIDE * deviation
    return snapped(function, low, high, intervals, dtype) if snap else (low, high)


def snapped(
    function: Elementwise, low: Tensor, high: Tensor, intervals: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The bounds, adjusted minimally so that knots fall exactly on the corners of `function` in this precision."""
    cap = cap_of(function, low.to(torch.promote_types(dtype, torch.float32)))
    return _around_zero(low, high, intervals, dtype) if cap is None else _around_both(low, high, intervals, cap, dtype)


def cap_of(function: Elementwise, like: Tensor) -> float | None:
    """The cap of a clipped ReLU, such as 6 for ReLU6; None for any other function of rows such as `like` (C,)."""
    top = function(torch.full_like(like, _FAR).unsqueeze(0))
    if top.is_meta or not bool((top == top.flatten()[0]).all()) or not 0 < (cap := float(top.flatten()[0])) < _FAR / 2:
        return None
    points = torch.tensor([-_FAR, -cap, 0.0, cap / 2, cap, 2 * cap]).to(like).unsqueeze(1).expand(-1, len(like))
    return cap if torch.equal(function(points.clone()), points.clamp(0.0, cap)) else None


def _around_both(low: Tensor, high: Tensor, intervals: int, cap: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bounds with knots at zero and at `cap`, as close to the given ones as whole intervals between the two allow."""
    low, high = low.clamp_max(0.0), high.clamp_min(cap)
    scale = 2.0 ** _digits(intervals, dtype)
    counts = [k for k in range(1, intervals + 1) if (math.frexp(cap / k)[0] * scale).is_integer()]
    between = torch.tensor(counts or [intervals]).to(low)
    between = between[(between.unsqueeze(1) - intervals * cap / (high - low)).abs().argmin(0)]
    before = torch.minimum((-low * between / cap).round(), intervals - between)
    return -before * cap / between, (intervals - before) * cap / between


def _around_zero(low: Tensor, high: Tensor, intervals: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The bounds, widened minimally so that a knot falls exactly on zero in this precision."""
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    # The number of knots left of zero: none or all only if the range is one-sided, or there is one interval.
    least = ((low < 0) & (intervals > 1)).to(low)
    most = intervals - ((high > 0) & (least < intervals)).to(low)
    before = torch.minimum(torch.maximum((intervals * -low / (high - low)).round(), least), most)
    after = intervals - before
    width = torch.maximum(
        torch.where(before > 0, -low / before, 0.0), torch.where(after > 0, high / after, 0.0)
    )  # fmt: skip
    mantissa, exponent = torch.frexp(width)
    scale = 2.0 ** _digits(intervals, dtype)
    width = torch.ldexp((mantissa * scale).ceil() / scale, exponent)
    return -before * width, after * width


def _digits(intervals: int, dtype: torch.dtype) -> int:
    """How many significant bits the width of an interval may have.

    So few that all its multiples are representable: then every knot is exact, and so is ReLU. Four bits are left for
    the points between the knots at which a fit is evaluated.
    """
    return max(min(1 - round(math.log2(torch.finfo(dtype).eps)), 20) - intervals.bit_length(), 2)


def best_lines(
    function: Elementwise, left: Tensor, right: Tensor, reach: tuple[Tensor, Tensor], intervals: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights (N + 1, C) and outer slopes (C,) of the least-squares fit to `function`, in double precision.

    The heights are fitted over [left, right], uniformly; then each outer slope from its bound out to `reach`, or to
    half a range beyond if that is farther. A function that is piecewise linear on these knots is reproduced exactly.
    `function` maps rows (n, C) of `dtype`.

    Raises:
        BadValue: the function is not finite there.
    """
    left, right = left.double(), right.double()
    spread = torch.arange(intervals * PER_INTERVAL + 1, dtype=torch.float64, device=left.device).unsqueeze(1)
    spread = spread / PER_INTERVAL
    points = left + spread * ((right - left) / intervals)
    points[-1] = right
    wanted = _values(function, points.to(dtype))
    at_knots = wanted[::PER_INTERVAL]
    hats = (1 - (spread - spread[::PER_INTERVAL].T).abs()).clamp_min(0)
    # Solve for the residual of interpolation, so that an exact interpolation stays exact.
    heights = at_knots + torch.linalg.solve(hats.T @ hats, hats.T @ (wanted - hats @ at_knots))

    half, slopes = (right - left) / 2, []
    for bound, height, far, sign in ((left, heights[0], reach[0], -1), (right, heights[-1], reach[1], 1)):
        distance = torch.nan_to_num(sign * (far.double() - bound), nan=0.0, posinf=0.0)
        steps = (spread[1:] / intervals * torch.maximum(distance, half) * sign + bound).to(dtype)
        ahead = steps.double() - bound
        slopes.append((ahead * (_values(function, steps) - height)).sum(0) / ahead.square().sum(0))
    return heights, slopes[0], slopes[1]


def _values(function: Elementwise, points: Tensor) -> Tensor:
    """The function at these points, in double precision; an in-place function does not change the points."""
    values = function(points.clone()).double()
    if not values.is_meta and not bool(values.isfinite().all()):
        raise BadValue(
            "The function is not finite where it is to be fitted.",
            asked=f"points from {points.min().item():.3g} to {points.max().item():.3g}", try_="other bounds",
        )  # fmt: skip
    return values
