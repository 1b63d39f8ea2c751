"""SmeLU: two straight lines joined by a parabola, its generalisation, and a RESCU from any two lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.fx import wrap
from torch.nn import functional as F

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import behind, shaped
from surgery.activations.input_stats import COARSE, Elementwise, InputStats, best_of, fitted, nearest_member, ones_like
from surgery.activations.recompute import said
from surgery.errors import BadValue

FAR = 1e3  # where a function is assumed to have reached its asymptote
FLOOR = 1e-4  # lower bound of half-widths: at 0 the joint is a kink


def _joint(x: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The position of x in the joint from -left to right, from 0 to 1; and the parabola that joins 0 and a slope of 1.

    The parabola is written so that its derivative is right at both ends, where those of clamp and maximum are not.
    """
    width = left + right
    share = ((x + left) / width).clamp(0, 1)
    return share, share * (torch.maximum(x, -left) + left - share * width / 2)


def _smelu(x: Tensor, beta: Tensor) -> Tensor:
    return _joint(x, beta, beta)[1]


def _smelu_gradients(grad: Tensor, x: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    share, _ = _joint(x, beta, beta)
    return grad * share, grad * share * (1 - share)


def _gsmelu(x: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, height: Tensor) -> Tensor:
    over = x >= right
    inside = torch.where(over, right, x)  # beyond the joint x may be infinite, and only one slope may multiply it
    curved = height + low_slope * (inside + left) + (high_slope - low_slope) * _joint(inside, left, right)[1]
    return curved + high_slope * torch.where(over, x - right, 0.0)


def _gsmelu_gradients(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, height: Tensor
) -> tuple[Tensor, ...]:
    inside = torch.minimum(x, right)
    share, parabola = _joint(inside, left, right)
    bend = high_slope - low_slope
    of_x = grad * (low_slope + bend * share)
    of_width = -grad * bend * share.square() / 2
    return of_x, of_x + of_width, of_width, grad * (inside + left - parabola), grad * (parabola + x - inside), grad


def _smelu_exported(x: Tensor, after: int, beta: Tensor) -> Tensor:
    """x enters one scaling only, so that exporters fold it into a convolution in front; large x cancel nowhere."""
    root = shaped(beta.sqrt(), after)
    above = F.relu(x * (0.5 / root) + 0.5 * root)
    curved = torch.minimum(above, root)
    return curved * (above + (above - curved))


def _gsmelu_exported(
    x: Tensor, after: int, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, height: Tensor
) -> Tensor:
    low, middle = shaped(low_slope, after), shaped((right - left) / 2, after)
    bend = _smelu_exported(x - middle, after, (left + right) / 2)
    return bend * (shaped(high_slope, after) - low) + x * low + shaped(height + low_slope * left, after)


SMELU = Function("smelu", _smelu, _smelu_gradients, _smelu_exported)
GSMELU = Function("gsmelu", _gsmelu, _gsmelu_gradients, _gsmelu_exported)


@wrap  # symbolic traces keep it as one call
def smelu(x: Tensor, axis: int, beta: Tensor, recompute: bool = False) -> Tensor:
    """0 up to -|beta|, x from |beta| on, a parabola between; channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _smelu_exported(x, behind(x, axis), positive(beta))
    return apply(SMELU, x, axis, positive(beta), recompute=recompute)


@wrap
def gsmelu(
    x: Tensor, axis: int, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, height: Tensor,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """Two lines and the parabola that joins them from -left to right; channels of x on `axis`."""
    right = positive(left + right) - left
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _gsmelu_exported(x, behind(x, axis), left, right, low_slope, high_slope, height)
    return apply(GSMELU, x, axis, left, right, low_slope, high_slope, height, recompute=recompute)


class SmeLU(nn.Module):
    """0 up to -beta, x from beta on, and a parabola between: a ReLU whose gradient is continuous.

    `beta` is learned, per channel or shared by all, unless `learn` is False. Its absolute value counts.

    Source: Shamir, Lin and Coviello 2020, "Smooth activations and reproducibility in deep networks",
    arXiv 2010.09931, section on SmeLU.
    """

    surgery_activation = "smelu"
    __constants__ = ("recompute",)
    recompute = False  # see `surgery.swap`

    def __init__(self, channels: int = 1, beta: float = 1.0, *, learn: bool = True, axis: int = 1) -> None:
        super().__init__()
        _above_zero("beta", beta)
        self.beta = nn.Parameter(torch.full((channels,), float(beta)), requires_grad=learn)
        self.axis = axis

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Become the member nearest to `function`, with beta between 0.05 and 4."""
        nearest_member(self, self.beta, function, stats, torch.logspace(math.log10(0.05), math.log10(4), 60))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        return smelu(input, self.axis, self.beta, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{len(self.beta)}" + said(self.recompute)


class GSmeLU(nn.Module):
    """A line of slope `low_slope` up to -left, one of slope `high_slope` from right on, and a parabola between.

    `height` is the value at -left. All five are learned, per channel or shared by all, unless `learn` is False; of the
    width of the joint, left + right, the absolute value counts. `rescu` builds one from two lines.

    Source: Shamir, Lin and Coviello 2020, arXiv 2010.09931, equation 11.
    """

    surgery_activation = "gsmelu"
    __constants__ = ("recompute",)
    recompute = False

    def __init__(
        self,
        channels: int = 1,
        left: float = 1.0,
        right: float = 1.0,
        low_slope: float = 0.0,
        high_slope: float = 1.0,
        height: float = 0.0,
        *,
        learn: bool = True,
        axis: int = 1,
    ) -> None:
        super().__init__()
        if not left + right > 0:
            raise BadValue(
                "The width of the joint must be positive.",
                asked=f"left={left}, right={right}",
                try_="left + right above 0",
            )
        self.left, self.right, self.low_slope, self.high_slope, self.height = (
            nn.Parameter(torch.full((channels,), float(number)), requires_grad=learn)
            for number in (left, right, low_slope, high_slope, height)
        )
        self.axis = axis

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Take the asymptotes of `function`, and the width of the joint that fits it best where they cross."""
        far = FAR * ones_like(stats)
        lines = []
        for slope, end in ((self.low_slope, -far), (self.high_slope, far)):
            rise = (function(2 * end) - function(end)) / end
            slope.copy_(fitted(rise, slope))
            lines.append((rise, function(end) - rise * end))
        (low_slope, low), (high_slope, high) = lines
        bend = high_slope - low_slope
        crossing = torch.where(bend.abs() > FLOOR, (low - high) / bend, 0.0)
        points = stats.grid(COARSE)
        wanted, errors, members = function(points), [], []
        for half in torch.logspace(math.log10(0.05), math.log10(4), 60).tolist():
            begin = crossing - half
            members.append((-begin, crossing + half, low_slope * begin + low))
            for param, value in zip((self.left, self.right, self.height), members[-1], strict=True):
                param.copy_(fitted(value, param))
            errors.append((stats.through(self)(points) - wanted).square().mean(0))
        best = best_of(torch.stack(errors), self.left)
        for number, param in enumerate((self.left, self.right, self.height)):
            values = torch.stack([fitted(member[number], param) for member in members])
            param.copy_(values.gather(0, best[None])[0])

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        params = self.left, self.right, self.low_slope, self.high_slope, self.height
        return gsmelu(input, self.axis, *params, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{len(self.left)}" + said(self.recompute)


def rescu(
    left: tuple[float, float],
    right: tuple[float, float],
    joint: float,
    *,
    channels: int = 1,
    learn: bool = False,
    axis: int = 1,
) -> GSmeLU:
    """Build a smooth unit from its left line, its right line and the width of the joint between them.

    Lines are (slope, intercept). The joint is symmetric about their crossing: there a parabola touches both.

    Raises:
        BadValue: the lines are parallel, or the width of the joint is not positive.

    Source: Shamir, Lin and Coviello 2020, arXiv 2010.09931, the RESCU recipe.
    """
    (low_slope, low), (high_slope, high) = left, right
    if low_slope == high_slope:
        raise BadValue("Parallel lines cannot be joined.", asked=f"left={left}, right={right}", try_="two slopes")
    _above_zero("joint", joint)
    crossing = (low - high) / (high_slope - low_slope)
    begin, end = crossing - joint / 2, crossing + joint / 2
    height = low_slope * begin + low
    return GSmeLU(channels, -begin, end, low_slope, high_slope, height, learn=learn, axis=axis)


def positive(width: Tensor, floor: float = FLOOR) -> Tensor:
    """The absolute value, clamped from below at the floor, with a gradient that still leads out of the clamp."""
    size = width.abs()
    return size + (floor - size.detach()).clamp_min(0.0)


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise BadValue(f"`{name}` must be a positive width.", asked=f"{name}={value!r}", try_="a number above 0")
