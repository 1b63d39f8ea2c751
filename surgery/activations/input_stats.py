"""Seen: what entered an activation, per channel, and how another function begins as the one it replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Elementwise = Callable[[Tensor], Tensor]

GRID, COARSE = 1025, 257  # points at which two functions are compared, or many
ROUNDING = 1e-5  # a difference, as a share of the largest value, that comes from rounding


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The numbers that entered an activation: mean, standard deviation, least and greatest, each per channel (C,).

    They came in tensors of `dims` dimensions with the channels on `axis`.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    dims: int = 2
    axis: int = 1

    @classmethod
    def nothing(cls, channels: int) -> Seen:
        """What stands in where nothing was observed: a standard normal distribution, up to four deviations."""
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        return cls(zeros, ones, -4 * ones, 4 * ones)

    @classmethod
    def of(cls, x: Tensor, axis: int) -> Seen:
        """Of a tensor with its channels on `axis`."""
        rows = x.detach().double().movedim(axis, -1).flatten(0, -2) if x.dim() > 1 else x.detach().double().view(-1, 1)
        mean, deviation = rows.mean(0), rows.std(0, correction=0)
        return cls(mean.float(), deviation.float(), rows.amin(0).float(), rows.amax(0).float(), x.dim(), axis)

    @classmethod
    def pooled(cls, parts: Sequence[Seen]) -> Seen:
        """What several calls saw, each counting the same: per channel, or of all together if their numbers differ."""
        if len(parts) == 1:
            return parts[0]
        if len({len(one.mean) for one in parts}) > 1:
            parts = [one.shared() for one in parts]
        mean = torch.stack([one.mean for one in parts]).mean(0)
        square = torch.stack([one.deviation.square() + one.mean.square() for one in parts]).mean(0)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        low, high = (torch.stack(ends) for ends in ([one.low for one in parts], [one.high for one in parts]))
        return cls(mean, deviation, low.amin(0), high.amax(0), parts[0].dims, parts[0].axis)

    @property
    def finite(self) -> bool:
        """False where something infinite, or no number, entered."""
        return all(bool(one.isfinite().all()) for one in (self.mean, self.deviation, self.low, self.high))

    def on(self, device: torch.device | str) -> Seen:
        """The same numbers on another device."""
        mean, deviation, low, high = (one.to(device) for one in (self.mean, self.deviation, self.low, self.high))
        return Seen(mean, deviation, low, high, self.dims, self.axis)

    def through(self, function: Elementwise) -> Elementwise:
        """The function of rows (n, C) that `function` is on tensors such as were seen."""

        def of_rows(rows: Tensor) -> Tensor:
            if self.dims < 2:
                return function(rows)
            spread = rows.reshape(len(rows), *[1] * (self.dims - 2), -1).movedim(-1, self.axis)
            return function(spread).movedim(self.axis, -1).reshape(rows.shape)

        return of_rows

    def shared(self) -> Seen:
        """The same numbers of all channels together."""
        mean = self.mean.mean(0, keepdim=True)
        square = (self.deviation.square() + self.mean.square()).mean(0, keepdim=True)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        low, high = self.low.amin(0, keepdim=True), self.high.amax(0, keepdim=True)
        return Seen(mean, deviation, low, high, self.dims, self.axis)

    def grid(self, count: int = GRID) -> Tensor:
        """Points from the least to the greatest number, (count, C); zero is one of them where it lies between."""
        steps = torch.linspace(0, 1, count, device=self.low.device).unsqueeze(1)
        points = self.low + steps * (self.high - self.low)
        nearest = points.abs().argmin(0, keepdim=True)
        inside = (self.low < 0) & (self.high > 0)
        return points.scatter(0, nearest, torch.where(inside, 0.0, points.gather(0, nearest)))


@runtime_checkable
class Starting(Protocol):
    """An activation that can begin as another one, or as the nearest to it that it can be."""

    def start_as(self, function: Elementwise, seen: Seen) -> None:
        """Become `function`, which maps rows of channels (n, C), as well as possible on what was `seen`."""


def ones_like(seen: Seen) -> Tensor:
    """A row of ones, one per channel (1, C)."""
    return torch.ones_like(seen.mean).unsqueeze(0)


def fitted(values: Tensor, param: Tensor) -> Tensor:
    """Values per channel (1, C) or (C,) in the shape of a parameter: itself, or the mean where channels share it."""
    return values.reshape(-1) if values.numel() == param.numel() else values.mean().expand(param.shape)


def nearest_member(module: nn.Module, param: Tensor, function: Elementwise, seen: Seen, members: Tensor) -> None:
    """Set the one parameter of a family, per channel or shared, to the member nearest to `function` (least squares)."""
    points = seen.grid(COARSE)
    wanted, errors = function(points), []
    for member in members.tolist():
        param.fill_(member)
        errors.append((seen.through(module)(points) - wanted).square().mean(0))
    param.copy_(members.to(param)[best_of(torch.stack(errors), param)])


def best_of(errors: Tensor, param: Tensor) -> Tensor:
    """For each entry of a parameter, which of the candidates has the least of the errors (candidates, C)."""
    return (errors if param.numel() > 1 else errors.mean(1, keepdim=True)).argmin(0)


@torch.no_grad()
def start(
    module: nn.Module, function: nn.Module, seen: Seen, *, own: bool = False, asked: Mapping[str, float] | None = None
) -> float:
    """Let `module` begin as `function` if it can, and return the largest difference on the range that was seen.

    It is 0 where it is no more than rounding makes of the largest value.
    With `own` it keeps its own initial values, and the difference is only measured. Parameters that are `asked` for
    keep the values given here.
    """
    if not own and not _took_over(module, function) and isinstance(module, Starting):
        module.start_as(seen.through(function), seen)
    if not own:
        set_parameters(module, asked or {})
    points = seen.grid()
    wanted = seen.through(function)(points)
    most = float((seen.through(module)(points) - wanted).abs().max())
    return 0.0 if most <= ROUNDING * float(wanted.abs().max()) else most


@torch.no_grad()
def set_parameters(module: nn.Module, values: Mapping[str, float]) -> None:
    """Fill parameters, by name, with numbers; that of a PReLU goes by the name torch gives its first value."""
    for name, value in values.items():
        param = getattr(module, "weight" if name == "init" else name, None)
        if isinstance(param, Tensor):
            param.fill_(value)


def _took_over(module: nn.Module, function: nn.Module) -> bool:
    """Give a module the parameters of another of its kind, unless they are for other knots, or for more channels."""
    if type(function) is not type(module) or getattr(module, "bound", None) is not None:
        return False
    pairs = list(zip(module.parameters(), function.parameters(), strict=True))
    for mine, theirs in pairs:
        if theirs.shape[:-1] != mine.shape[:-1] or theirs.shape[-1:] not in (mine.shape[-1:], (1,)):
            return False
    for mine, theirs in pairs:
        mine.copy_(theirs)
    return True
