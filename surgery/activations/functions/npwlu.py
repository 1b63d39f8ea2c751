"""N-PWLU: a piecewise linear function whose interval widths are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import wrap
from torch.nn import functional as F

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import behind, shaped
from surgery.activations.functions.piecewise import along, best_lines, bounds_for, summed, taken
from surgery.activations.functions.pwlu import around_zero, averaged, check, check_rows
from surgery.activations.functions.smelu import positive
from surgery.activations.input_stats import Elementwise, InputStats
from surgery.activations.recompute import said


def _tables(start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, bases and slopes (N + 2, C) of the regions: knots and values add up from the first knot on."""
    knots = start + torch.cat([torch.zeros_like(widths[:1]), widths.cumsum(0)])
    values = height + torch.cat([torch.zeros_like(widths[:1]), (widths * slopes[1:-1]).cumsum(0)])
    return torch.cat([knots[:1], knots]), torch.cat([values[:1], values]), slopes


def _region(x: Tensor, anchors: Tensor) -> Tensor:
    """How many knots lie at or left of each x; they are so few that comparing is faster than searching."""
    region = torch.zeros_like(x, dtype=torch.long)
    for knot in anchors[1:].detach():
        region = region + (x.detach() >= knot)
    return region


def _npwlu(x: Tensor, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor) -> Tensor:
    x = torch.atleast_1d(x)
    anchors, bases, slopes = _tables(start, height, widths, slopes)
    return along(x, _region(x, anchors), anchors, bases, slopes)


def _npwlu_gradients(
    grad: Tensor, x: Tensor, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor
) -> tuple[Tensor, ...]:
    anchors, _, slopes = _tables(start, height, widths, slopes)
    region, size = _region(x, anchors), len(slopes)
    of_x = grad * taken(slopes, region)
    plain = summed(grad, region, size)
    far = summed(grad * (x - taken(anchors, region)), region, size)
    # The width of an interval shifts everything to its right, and lifts it by width times slope.
    right = plain[2:].flip(0).cumsum(0).flip(0)
    shifted = (slopes * plain)[2:].flip(0).cumsum(0).flip(0)
    of_slopes = torch.cat([far[:1], far[1:-1] + widths * right, far[-1:]])
    return of_x, -(slopes * plain).sum(0), plain.sum(0), slopes[1:-1] * right - shifted, of_slopes


def _npwlu_exported(x: Tensor, after: int, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor) -> Tensor:
    """A sum of clips, one per interval, between knots that differ by channel, counted from the middle one."""
    anchors, bases, _ = _tables(start, height, widths, slopes)
    knots, steep = anchors[1:].unbind(0), slopes.unbind(0)
    middle = knots[len(knots) // 2]
    x = x + shaped(-middle, after)
    first, last = knots[0] - middle, knots[len(knots) - 1] - middle
    low, high = steep[0], steep[len(steep) - 1]
    total = torch.minimum(x, shaped(first, after)) * shaped(low, after)
    total = total + torch.maximum(x, shaped(last, after)) * shaped(high, after)
    rest = bases[0] - first * low - last * high
    for number in range(len(knots) - 1):
        left, right, slope = knots[number] - middle, knots[number + 1] - middle, steep[number + 1]
        inside = torch.minimum(torch.maximum(x, shaped(left, after)), shaped(right, after))
        total = total + inside * shaped(slope, after)
        rest = rest - left * slope
    return total + shaped(rest, after)


FUNCTION = Function("npwlu", _npwlu, _npwlu_gradients, _npwlu_exported)


@wrap  # symbolic traces keep it as one call
def npwlu(
    x: Tensor, axis: int, intervals: int, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """A piecewise linear function of x with knots at any distance; channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _npwlu_exported(x, behind(x, axis), start, height, positive(widths), slopes)
    check_rows("widths", widths, intervals)
    check_rows("slopes", slopes, intervals + 2)
    return apply(FUNCTION, x, axis, start, height, positive(widths), slopes, recompute=recompute)


class NPWLU(nn.Module):
    """A piecewise linear function whose knots move freely but never cross, per channel or shared by all.

    The first knot is at `start` (C,), where the value is `height` (C,); from there, `widths` (N, C) and `slopes`
    (N + 2, C), including the outer two, accumulate. So each interval's parameters affect everything right of it, and
    none is untrained for lack of data. Of widths the absolute value is used. It is initialised as ReLU on
    [-bound, bound], from -3 to 3 without a bound.

    Source: N-PWLU, ICPR 2022, by the authors of PWLU. We had only its abstract (non-uniform intervals, a cumulative
    definition that ties them together, no realignment, four intervals): the parameters are our reading.

    Raises:
        BadValue: fewer than one interval or channel, or a bound not above 0.
    """

    __constants__ = ("recompute",)
    recompute = False  # see `surgery.swap`

    def __init__(self, channels: int = 1, intervals: int = 4, bound: float | None = None, *, axis: int = 1) -> None:
        super().__init__()
        check(channels, intervals, bound)
        self.start, self.height = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.widths = nn.Parameter(torch.ones(intervals, channels))
        self.slopes = nn.Parameter(torch.zeros(intervals + 2, channels))
        self.intervals = intervals
        self.axis = axis
        self.bound = bound
        low, high = around_zero(F.relu, bound, channels, intervals, True, self.start.dtype)
        self._become(F.relu, low, high, (low, high))

    @torch.no_grad()
    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Fit `function` as closely as equal intervals can, with a knot at zero, within three deviations of the mean.

        A `bound` given by the user stays.
        """
        rows = len(stats.mean)
        if len(self.start) == 1 and rows > 1:
            stats, function = stats.shared(), averaged(function, rows)
        low, high = bounds_for(function, stats, self.intervals, True, self.start.dtype)
        if self.bound is not None:
            low, high = around_zero(function, self.bound, len(self.start), self.intervals, True, self.start.dtype)
        self._become(function, low, high, (stats.low, stats.high))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        params = self.start, self.height, self.widths, self.slopes
        return npwlu(input, self.axis, self.intervals, *params, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{len(self.start)}, intervals={self.intervals}" + said(self.recompute)

    def _become(self, function: Elementwise, low: Tensor, high: Tensor, reach: tuple[Tensor, Tensor]) -> None:
        intervals, inner = self.intervals, torch.promote_types(self.start.dtype, torch.float32)
        heights, low_slope, high_slope = best_lines(function, low, high, reach, intervals, inner)
        width = (high - low).double() / intervals
        slopes = torch.cat([low_slope[None], heights.diff(dim=0) / width, high_slope[None]])
        with torch.no_grad():
            for param, value in zip(
                (self.start, self.height, self.widths, self.slopes), (low, heights[0], width, slopes), strict=True
            ):
                param.copy_(value.expand(param.shape))
