"""Input statistics of an activation, per channel, and how its replacement is initialised to match it on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Elementwise = Callable[[Tensor], Tensor]

GRID, COARSE = 1025, 257  # grid points for comparing two functions, or many
ROUNDING = 1e-5  # a difference, relative to the largest value, that counts as rounding


@dataclass(frozen=True, slots=True, eq=False)
class InputStats:
    """Input statistics of an activation: mean, standard deviation, minimum and maximum, each per channel (C,).

    The inputs were tensors of `dims` dimensions with the channels on `axis`.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    dims: int = 2
    axis: int = 1

    @classmethod
    def nothing(cls, channels: int) -> InputStats:
        """The default without observations: a standard normal distribution, up to four standard deviations."""
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        return cls(zeros, ones, -4 * ones, 4 * ones)

    @classmethod
    def of(cls, x: Tensor, axis: int) -> InputStats:
        """The statistics of a tensor with its channels on `axis`."""
        rows = x.detach().double().movedim(axis, -1).flatten(0, -2) if x.dim() > 1 else x.detach().double().view(-1, 1)
        mean, deviation = rows.mean(0), rows.std(0, correction=0)
        return cls(mean.float(), deviation.float(), rows.amin(0).float(), rows.amax(0).float(), x.dim(), axis)

    @classmethod
    def pooled(cls, parts: Sequence[InputStats]) -> InputStats:
        """The pooled statistics of several calls, equally weighted; over all channels if their numbers differ."""
        if len(parts) == 1:
            return parts[0]
        if len({len(part.mean) for part in parts}) > 1:
            parts = [part.shared() for part in parts]
        mean = torch.stack([part.mean for part in parts]).mean(0)
        square = torch.stack([part.deviation.square() + part.mean.square() for part in parts]).mean(0)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        low, high = (torch.stack(ends) for ends in ([part.low for part in parts], [part.high for part in parts]))
        return cls(mean, deviation, low.amin(0), high.amax(0), parts[0].dims, parts[0].axis)

    @property
    def finite(self) -> bool:
        """False if an input was infinite or NaN."""
        return all(bool(value.isfinite().all()) for value in (self.mean, self.deviation, self.low, self.high))

    def on(self, device: torch.device | str) -> InputStats:
        """The same statistics on another device."""
        mean, deviation, low, high = (value.to(device) for value in (self.mean, self.deviation, self.low, self.high))
        return InputStats(mean, deviation, low, high, self.dims, self.axis)

    def through(self, function: Elementwise) -> Elementwise:
        """`function`, which takes tensors like the observed inputs, as a function of rows (n, C)."""

        def of_rows(rows: Tensor) -> Tensor:
            if self.dims < 2:
                return function(rows)
            spread = rows.reshape(len(rows), *[1] * (self.dims - 2), -1).movedim(-1, self.axis)
            return function(spread).movedim(self.axis, -1).reshape(rows.shape)

        return of_rows

    def shared(self) -> InputStats:
        """The statistics over all channels."""
        mean = self.mean.mean(0, keepdim=True)
        square = (self.deviation.square() + self.mean.square()).mean(0, keepdim=True)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        low, high = self.low.amin(0, keepdim=True), self.high.amax(0, keepdim=True)
        return InputStats(mean, deviation, low, high, self.dims, self.axis)

    def grid(self, count: int = GRID) -> Tensor:
        """Points from the minimum to the maximum, (count, C); including zero if it lies between."""
        steps = torch.linspace(0, 1, count, device=self.low.device).unsqueeze(1)
        points = self.low + steps * (self.high - self.low)
        nearest = points.abs().argmin(0, keepdim=True)
        inside = (self.low < 0) & (self.high > 0)
        return points.scatter(0, nearest, torch.where(inside, 0.0, points.gather(0, nearest)))


@runtime_checkable
class Starting(Protocol):
    """An activation that can be initialised to match another one, exactly or as closely as possible."""

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Match `function`, which maps rows of channels (n, C), as closely as possible on the inputs `stats`."""


def ones_like(stats: InputStats) -> Tensor:
    """A row of ones, one per channel (1, C)."""
    return torch.ones_like(stats.mean).unsqueeze(0)


def fitted(values: Tensor, param: Tensor) -> Tensor:
    """Values per channel (1, C) or (C,) in the shape of a parameter: unchanged, or their mean if channels share it."""
    return values.reshape(-1) if values.numel() == param.numel() else values.mean().expand(param.shape)


def nearest_member(module: nn.Module, param: Tensor, function: Elementwise, stats: InputStats, members: Tensor) -> None:
    """Set the single parameter of a family, per channel or shared, to the least-squares fit to `function`."""
    points = stats.grid(COARSE)
    wanted, errors = function(points), []
    for member in members.tolist():
        param.fill_(member)
        errors.append((stats.through(module)(points) - wanted).square().mean(0))
    param.copy_(members.to(param)[best_of(torch.stack(errors), param)])


def best_of(errors: Tensor, param: Tensor) -> Tensor:
    """For each entry of a parameter, the candidate with the smallest error; errors are (candidates, C)."""
    return (errors if param.numel() > 1 else errors.mean(1, keepdim=True)).argmin(0)


@torch.no_grad()
def start(
    module: nn.Module,
    function: nn.Module,
    stats: InputStats,
    *,
    own: bool = False,
    asked: Mapping[str, float] | None = None,
) -> float:
    """Initialise `module` to match `function` if it can, and return the maximum error on the observed range.

    The error is 0 if it is within rounding. With `own` the module keeps its default initial values, and the error is
    only measured. Parameters in `asked` keep the values given here.
    """
    if not own and not _copied_parameters(module, function) and isinstance(module, Starting):
        module.start_as(stats.through(function), stats)
    if not own:
        set_parameters(module, asked or {})
    points = stats.grid()
    wanted = stats.through(function)(points)
    most = float((stats.through(module)(points) - wanted).abs().max())
    return 0.0 if most <= ROUNDING * float(wanted.abs().max()) else most


@torch.no_grad()
def set_parameters(module: nn.Module, values: Mapping[str, float]) -> None:
    """Fill parameters, by name, with values; that of a PReLU is called `init`, as in its constructor."""
    for name, value in values.items():
        param = getattr(module, "weight" if name == "init" else name, None)
        if isinstance(param, Tensor):
            param.fill_(value)


def _copied_parameters(module: nn.Module, function: nn.Module) -> bool:
    """Copy the parameters of another module of its class, unless they are for other knots, or for more channels."""
    if type(function) is not type(module) or getattr(module, "bound", None) is not None:
        return False
    pairs = list(zip(module.parameters(), function.parameters(), strict=True))
    for mine, theirs in pairs:
        if theirs.shape[:-1] != mine.shape[:-1] or theirs.shape[-1:] not in (mine.shape[-1:], (1,)):
            return False
    for mine, theirs in pairs:
        mine.copy_(theirs)
    return True
