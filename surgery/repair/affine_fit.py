"""Stand-ins: fit the straight lines that stand for erased activations to what really enters them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations.functions.affine import Affine, evaluated
from surgery.edit.write import all_or_nothing
from surgery.errors import BadValue, NothingPicked
from surgery.look.finder import check_plain
from surgery.model import M
from surgery.repair.batches import check_repeatable, in_eval, run_through

_AT_ONCE = 1 << 22  # numbers that are held in float64 at a time
_CONSTANT = 1e-10  # a variance below this share of the mean square is rounding


def fit_affine(model: M, batches: Iterable[Any], *, limit: int | None = None) -> M:
    """Fit the affine stand-ins of a model to the activations they replaced, in place; returns the model.

    Each is fitted by least squares, per channel, to what enters it in the network as it then is, in order of
    execution: the ones before it are fitted already. A line that is called several times, or shared by all channels,
    takes all it is called with.
    A channel that is constant keeps its slope and gets the intercept that is right there. Lines that no forward
    reaches stay as they are; one that is still faded to is fitted where it will stand. No gradients, no change of
    modes, and the statistics of norms stay.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; they are gone through once per
    line and once more. The model's eval mode is what is fitted, on its device. With `limit`, the pass ends with the
    batch in which so many images are reached.

    Source: least squares; that it saves trained networks is measured in benchmarks/activations_pretrained.py.

    Raises:
        NothingPicked: the model has no affine stand-in, or none is reached.
        BadValue: the batches can be read once only, hold no images, do not go through the model, or make something that
            is not finite; or a line was never told what it stands for.
    """
    check_plain(model)
    check_repeatable(batches)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise BadValue("`limit` is a number of images.", asked=f"limit={limit!r}", try_="at least 1")
    lines = {path: module for path, module in model.named_modules() if isinstance(module, Affine)}
    if not lines:
        raise NothingPicked(
            f"{type(model).__name__} has no affine stand-in.",
            try_="surgery.transform(model, surgery.erase_relu(stand_in='affine')) first",
        )
    for path, line in lines.items():
        if line.replaced is None:
            raise BadValue(
                f"{path or 'The model'} does not know what it stands for.", there=str(line),
                try_="line.stand_for(function)",
            )  # fmt: skip
    return _fit_all(model, lines, batches, limit)


@all_or_nothing(lambda model, lines, *_: [param for line in lines.values() for param in (line.weight, line.bias)])
def _fit_all(model: M, lines: dict[str, Affine], batches: Iterable[Any], limit: int | None) -> M:
    with in_eval(model):
        for path in _in_order(model, lines, batches):
            _fit(model, path, lines[path], batches, limit)
    return model


def _in_order(model: nn.Module, lines: dict[str, Affine], batches: Iterable[Any]) -> list[str]:
    """The paths of the lines, in the order in which a forward reaches them."""
    path_of = {id(line): path for path, line in lines.items()}
    reached: dict[str, None] = {}
    with _hearing(list(lines.values()), lambda line, _: reached.setdefault(path_of[id(line)])):
        next(run_through(model, batches))
    if not reached:
        raise NothingPicked("No affine stand-in is reached in eval mode.", there=", ".join(list(lines)[:3]))
    return list(reached)


def _fit(model: nn.Module, path: str, line: Affine, batches: Iterable[Any], limit: int | None) -> None:
    assert line.replaced is not None
    sums, images = _Sums(line), 0
    with _hearing([line], lambda _, x: sums.add(x)):
        for batch in run_through(model, batches):
            images += len(batch.images)
            if limit is not None and images >= limit:
                break
    slope, intercept = sums.solved(path)
    with torch.no_grad():
        line.weight.copy_(slope)
        line.bias.copy_(intercept)


@contextmanager
def _hearing(lines: list[Affine], tell: Any) -> Iterator[None]:
    """Inside, `tell(line, x)` is called with what enters each of the lines."""
    handles = []
    try:
        for line in lines:
            handles.append(line.register_forward_pre_hook(lambda module, args: tell(module, args[0]) and None))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Sums of z, z squared, f(z) and z f(z) per channel, in float64."""

    def __init__(self, line: Affine) -> None:
        assert line.replaced is not None
        self.line, self.function = line, evaluated(line.replaced)
        self.sums: list[Tensor | float] = [0.0, 0.0, 0.0, 0.0]
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add a tensor that enters the line."""
        axis = self.line.axis if -x.dim() <= self.line.axis < x.dim() else -1
        for part in x.detach().split(max(1, _AT_ONCE * len(x) // max(x.numel(), 1))) if x.dim() > 1 else (x.detach(),):
            value = self.function(part).movedim(axis, -1)
            z = part.double().movedim(axis, -1)
            channels = len(self.line.weight)
            z, value = (one.reshape(-1, channels) if channels > 1 else one.reshape(-1, 1) for one in (z, value))
            for place, one in enumerate((z, z.square(), value, z * value)):
                self.sums[place] = self.sums[place] + one.sum(0)
            self.count += len(z)

    def solved(self, path: str) -> tuple[Tensor, Tensor]:
        """Slope and intercept of the least-squares line."""
        mean, square, value, product = (torch.as_tensor(one) / max(self.count, 1) for one in self.sums)
        variance = square - mean.square()
        constant = variance <= _CONSTANT * square
        slope = (product - mean * value) / torch.where(constant, 1.0, variance)
        slope = torch.where(constant, self.line.weight.detach().double(), slope)
        intercept = value - slope * mean
        if not bool(torch.isfinite(slope).all() and torch.isfinite(intercept).all()):
            raise BadValue(f"What enters {path} is not finite.", try_="batches the model was made for")
        return slope, intercept
