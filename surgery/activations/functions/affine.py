"""Affine: an affine map per channel, the best linear stand-in for an erased activation."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.fx import wrap

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import behind, shaped
from surgery.activations.recompute import said
from surgery.errors import BadValue
from surgery.isolation.meta_copy import read

# Quadrature points of a normal distribution, in standard deviations. Evenly spaced ones are as accurate as
# Gauss-Hermite's for smooth functions, and at a kink, wherever it is, off only by the square of their spacing.
_REACH, _POINTS = 9.0, 2049
_NARROW = 1e-6  # smaller deviations, relative to the mean (or 1), count as this: the tangent


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x * weight + bias


def _affine_gradients(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return grad * weight, grad * x, grad


def _affine_exported(x: Tensor, after: int, weight: Tensor, bias: Tensor) -> Tensor:
    return x * shaped(weight, after) + shaped(bias, after)


AFFINE = Function("affine", _affine, _affine_gradients, _affine_exported)


@wrap  # symbolic traces keep it as one call
def affine(x: Tensor, axis: int, weight: Tensor, bias: Tensor, recompute: bool = False) -> Tensor:
    """weight x + bias, channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _affine_exported(x, behind(x, axis), weight, bias)
    return apply(AFFINE, x, axis, weight, bias, recompute=recompute)


class Affine(nn.Module):
    """weight x + bias, per channel or shared by all. It counts as erased, since an affine map is not an activation.

    `replaced` is the function it replaces, None if unknown; it is not a child, and not in the state dict.
    """

    replaced: nn.Module | None = None
    __constants__ = ("recompute",)
    recompute = False  # see `surgery.swap`

    def __init__(self, channels: int = 1, weight: float = 1.0, bias: float = 0.0, *, axis: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(weight)))
        self.bias = nn.Parameter(torch.full((channels,), float(bias)))
        self.axis = axis

    def forward(self, input: Tensor) -> Tensor:
        """Return the line at `input`, of any shape, in its dtype and layout."""
        return affine(input, self.axis, self.weight, self.bias, self.recompute)

    def stand_for(self, function: nn.Module) -> None:
        """Keep a copy of the activation this line replaces, so that it can be fitted to it again."""
        self.__dict__["replaced"] = copy.deepcopy(function).requires_grad_(False)  # a child would be in the state dict

    @torch.no_grad()
    def start_behind(self, norm: nn.Module, function: nn.Module) -> None:
        """Become the best affine fit to `function` behind a norm, without data.

        The output of a norm is taken as normal, with its bias as mean and its weight as standard deviation, per
        channel; (0, 1) without them. An affine map shared by all channels, or a norm that is not per channel, uses the
        mixture of the distributions.

        Raises:
            BadValue: `function` cannot be called on rows with this number of channels.
        """
        mean, deviation = _behind(norm, len(self.weight))
        slope, intercept = best_line(function, mean, deviation)
        self.weight.copy_(slope)
        self.bias.copy_(intercept)

    def extra_repr(self) -> str:
        """What `print` shows."""
        stands = f", for {type(self.replaced).__name__}" if self.replaced is not None else ""
        return f"{len(self.weight)}" + stands + said(self.recompute)


def best_line(function: nn.Module, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept (C,) of the least-squares line for `function` on normal inputs, float64.

    `mean` and the standard `deviation` (>= 0) are (C,). Closed form for ReLU: slope Phi(m / s), intercept s phi(m / s),
    with Phi and phi the standard normal distribution and density. Any other function is integrated, to about 1e-5 at a
    kink and to rounding elsewhere. Where the standard deviation is 0 the line is the tangent through function(m).

    Raises:
        BadValue: `function` cannot be called on rows of C channels.
    """
    m, s = mean.double(), deviation.double()
    wide = torch.maximum(s, _NARROW * m.abs().clamp_min(1.0))
    if type(function) is nn.ReLU:
        ratio = m / wide
        slope = torch.special.ndtr(ratio)
        value = torch.where(s > 0, m * slope + wide * _density(ratio), m.clamp_min(0))
        return slope, value - slope * m
    points = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device=m.device).unsqueeze(1)
    weights = _density(points)
    weights = weights / weights.sum()
    exact = evaluated(function)
    slope = (weights * points * exact(m + wide * points)).sum(0) / wide
    value = (weights * exact(m + s * points)).sum(0)
    return slope, value - slope * m


class evaluated:
    """A function in float64, on a private copy of the module; inputs are copied, and may be on any device."""

    def __init__(self, function: nn.Module) -> None:
        self.function = copy.deepcopy(function).double().eval()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The values at `x`, float64, of the same shape."""
        try:
            value: Tensor = self.function.to(x.device)(x.to(torch.float64, copy=True))
        except RuntimeError as error:
            raise BadValue(
                f"{type(self.function).__name__} fails on the inputs of this call.", asked=f"shape {tuple(x.shape)}",
                there=str(error).partition("\n")[0],
            ) from error  # fmt: skip
        return value


def _density(t: Tensor) -> Tensor:
    return torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)


def _behind(norm: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channels,) of the output of a norm."""
    weight, bias = read(norm, "weight"), read(norm, "bias")
    known = next((value for value in (weight, bias) if isinstance(value, Tensor)), torch.ones(channels))
    deviation = weight.detach().double().abs() if isinstance(weight, Tensor) else torch.ones_like(known).double()
    mean = bias.detach().double() if isinstance(bias, Tensor) else torch.zeros_like(known).double()
    if mean.numel() == channels:
        return mean.reshape(-1), deviation.reshape(-1)
    # More values than channels: the mean and standard deviation of the mixture over the other axes.
    rows = (channels, -1) if mean.dim() > 1 and mean.shape[0] == channels else (1, -1)
    mean, deviation = mean.reshape(rows), deviation.reshape(rows)
    spread = (deviation.square().mean(1) + mean.var(1, correction=0)).sqrt()
    return mean.mean(1).expand(channels), spread.expand(channels)
