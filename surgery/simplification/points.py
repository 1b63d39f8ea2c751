"""Points: what a function receives, a random sample of it, and how far another function is from it there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from surgery.activations.input_stats import Elementwise

_ELEMENTS = 1 << 16  # of a sample, over all channels,
_FEWEST, _MOST = 256, 4096  # and how many rows that may be
_CONSTANT = 1e-3  # a channel that varies less than this part of the whole output counts as if it varied so much


class Sample:
    """A uniform random sample of rows (n, C), out of all that are added to it, at most a few thousand."""

    def __init__(self) -> None:
        self.rows, self.keys = torch.empty(0), torch.empty(0)
        self.generator = torch.Generator().manual_seed(0)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, C): each gets a random number, and those with the smallest ones stay."""
        most = min(max(_ELEMENTS // rows.shape[1], _FEWEST), _MOST)
        keys = torch.rand(len(rows), generator=self.generator)
        chosen = keys.topk(min(most, len(rows)), largest=False).indices
        self.keys = torch.cat([self.keys, keys[chosen]])
        new = rows[chosen.to(rows.device)].cpu()
        self.rows = torch.cat([self.rows, new]) if len(self.rows) else new
        kept = self.keys.topk(min(most, len(self.keys)), largest=False).indices
        self.rows, self.keys = self.rows[kept], self.keys[kept]


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs x (n, C) of a function of rows, in float64. `shared`: all channels have the same parameters.

    Fits see columns: a channel each, or a single one of all channels, weighted so that each channel counts in units of
    its own deviation.
    """

    x: Tensor
    function: Elementwise
    shared: bool

    @cached_property
    def y(self) -> Tensor:
        """The values of the function (n, C)."""
        return self.function(self.x)

    @cached_property
    def scale(self) -> Tensor:
        """The standard deviation of the output (C,), see `scale_of`."""
        return scale_of(self.y.mean(0), self.y.square().mean(0))

    @cached_property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, values and weights (n, C), or (n C, 1)."""
        if not self.shared:
            return self.x, self.y, torch.ones_like(self.x)
        weights = self.scale.square().reciprocal().expand_as(self.x)
        return self.x.reshape(-1, 1), self.y.reshape(-1, 1), weights.reshape(-1, 1)

    def values(self, x: Tensor) -> Tensor:
        """The function at other points (m, columns)."""
        return self.function(x)

    def error(self, other: nn.Module) -> float:
        """The root mean square of the difference to a module, channels last, over the deviation: the worst channel."""
        with torch.no_grad():
            apart: Tensor = other(self.x.float()).double() - self.y
        return worst(apart.square().mean(0), self.scale)


def scale_of(mean: Tensor, square: Tensor) -> Tensor:
    """The standard deviation (C,) of an output with these means and mean squares.

    It is at least a thousandth of the root mean square of all channels: a channel that is constant has none.
    """
    least = _CONSTANT * square.mean().sqrt()
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(least)
    return torch.where(deviation > 0, deviation, 1.0)


def worst(square: Tensor, scale: Tensor) -> float:
    """The largest relative error of a channel, from mean squares of the difference (C,) and the scale (C,)."""
    return (square.sqrt() / scale).max().item()
