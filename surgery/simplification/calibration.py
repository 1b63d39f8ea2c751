"""Calibration: what enters the learned functions of a model on batches, and how far others are from them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations.functions.affine import evaluated
from surgery.activations.input_stats import InputStats
from surgery.errors import BadValue
from surgery.model import in_eval
from surgery.repair.batches import run_through
from surgery.simplification.points import Points, Sample, scale_of, worst

_AT_ONCE = 1 << 22  # elements that are compared at a time

Seen = Callable[[nn.Module, Tensor, Tensor], None]


@dataclass(frozen=True)
class Difference:
    """The relative root mean square error of the worst channel, and the largest absolute error."""

    error: float
    most: float


def points_of(model: nn.Module, functions: Mapping[nn.Module, int], batches: Iterable[Any]) -> dict[nn.Module, Points]:
    """A sample of what enters each function, given with its channel axis, on the batches in eval mode.

    Functions that are not called are left out.

    Raises:
        BadValue: an input is infinite or NaN; or a batch fails in the model.
    """
    samples = {function: Sample() for function in functions}
    layouts: dict[nn.Module, int] = {}

    def look(function: nn.Module, x: Tensor, _: Tensor) -> None:
        samples[function].add(_rows(x, functions[function]).float())
        layouts.setdefault(function, x.dim())

    _run(model, functions, batches, look)
    found = {}
    for function, dims in layouts.items():
        rows = samples[function].rows
        if not bool(rows.isfinite().all()):
            raise BadValue(f"The input of a {type(function).__name__} is not finite.", try_="batches the model is for")
        layout = replace(InputStats.of(rows, 1), dims=dims, axis=functions[function])
        shared = all(param.shape[-1] == 1 for param in function.parameters())
        found[function] = Points(rows.double(), layout.through(evaluated(function).__call__), shared)
    return found


def differences(
    model: nn.Module, others: Mapping[nn.Module, nn.Module], axes: Mapping[nn.Module, int], batches: Iterable[Any]
) -> dict[nn.Module, Difference]:
    """How far the other of each function, whose channels are last, is from it on all inputs of the batches."""
    sums = {function: _Sums(other) for function, other in others.items()}
    _run(model, others, batches, lambda function, x, y: sums[function].add(_rows(x, axes[function]),
                                                                           _rows(y, axes[function])))  # fmt: skip
    return {function: total.difference for function, total in sums.items()}


class _Sums:
    """Sums over rows of y, of its square and of that of the difference, per channel, in float64."""

    def __init__(self, other: nn.Module) -> None:
        self.other, self.count, self.most = other, 0, 0.0
        self.sums: list[Tensor | float] = [0.0, 0.0, 0.0]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add inputs and outputs (n, C) of the function."""
        other = self.other.to(x.device)
        size = max(1, _AT_ONCE // x.shape[1])
        for part, value in zip(x.split(size), y.split(size), strict=True):
            value = value.double()
            apart = other(part.float()).double() - value
            for place, term in enumerate((value, value.square(), apart.square())):
                self.sums[place] = self.sums[place] + term.sum(0).cpu()
            self.most = max(self.most, apart.abs().max().item())
        self.count += len(x)

    @property
    def difference(self) -> Difference:
        mean, square, apart = (torch.as_tensor(total) / max(self.count, 1) for total in self.sums)
        return Difference(worst(apart, scale_of(mean, square)), self.most)


def _rows(x: Tensor, axis: int) -> Tensor:
    """A tensor as rows of channels (n, C)."""
    axis = axis if -x.dim() <= axis < x.dim() else -1
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _run(model: nn.Module, functions: Iterable[nn.Module], batches: Iterable[Any], look: Seen) -> None:
    with in_eval(model), _observing(functions, look):
        for _ in run_through(model, batches):
            pass


@contextmanager
def _observing(functions: Iterable[nn.Module], look: Seen) -> Iterator[None]:
    """Inside, `look` sees every call of these functions: its input and its output."""

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        if x.numel():
            look(module, x.detach(), output.detach())

    handles = [function.register_forward_hook(seen, with_kwargs=True) for function in functions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
