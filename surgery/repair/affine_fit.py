"""Affine fit: fit the affine stand-ins of erased activations to their real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations.functions.affine import Affine, evaluated
from surgery.edit.rollback import all_or_nothing
from surgery.errors import BadValue, NothingPicked
from surgery.model import M, check_plain, in_eval
from surgery.repair.batches import check_repeatable, run_through

_AT_ONCE = 1 << 22  # elements that are held in float64 at a time
_CONSTANT = 1e-10  # a variance below this fraction of the mean square is rounding


def fit_affine(model: M, batches: Iterable[Any], *, limit: int | None = None) -> M:
    """Fit the affine stand-ins of a model to the activations they replaced, in place; returns the model.

    Each is fitted by least squares, per channel, to its inputs in the current network, in order of execution, so that
    earlier ones are already fitted. A stand-in that is called several times, or shared by all channels, is fitted to
    all its inputs. A constant channel keeps its slope and gets the matching intercept. Stand-ins that are never called
    stay unchanged; the end of a fade is fitted at its future position. No gradients are computed; modes and norm
    statistics stay unchanged.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; they are iterated once per
    stand-in and once more. The model is fitted in eval mode, on its device. With `limit`, each pass ends with the
    batch that reaches that many images.

    Source: least squares; benchmarks/activations_pretrained.py measures the accuracy it preserves.

    Raises:
        NothingPicked: the model does not have affine stand-ins, or none is called.
        BadValue: the batches can be read only once, contain no images, fail in the model, or give infinite values or
            NaN; or it is unknown which function a stand-in replaces.
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
                f"It is unknown which function {path or 'the model'} replaces.", asked=str(line),
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
    """The paths of the stand-ins, in order of execution."""
    path_of = {id(line): path for path, line in lines.items()}
    reached: dict[str, None] = {}
    with _observing_inputs(list(lines.values()), lambda line, _: reached.setdefault(path_of[id(line)])):
        next(run_through(model, batches))
    if not reached:
        raise NothingPicked("No affine stand-in is called in eval mode.", there=", ".join(list(lines)[:3]))
    return list(reached)


def _fit(model: nn.Module, path: str, line: Affine, batches: Iterable[Any], limit: int | None) -> None:
    assert line.replaced is not None
    sums, images = LineFit(line), 0
    with _observing_inputs([line], lambda _, x: sums.add(x)):
        for batch in run_through(model, batches):
            images += len(batch.images)
            if limit is not None and images >= limit:
                break
    sums.solve(path)


@contextmanager
def _observing_inputs(lines: list[Affine], observe: Any) -> Iterator[None]:
    """Inside, `observe(line, x)` is called with the input of each of the stand-ins."""
    handles = []
    try:
        for line in lines:
            handles.append(line.register_forward_pre_hook(lambda module, args: observe(module, args[0]) and None))
        yield
    finally:
        for handle in handles:
            handle.remove()


class LineFit:
    """The least-squares fit of an affine stand-in to what it replaces, on the inputs that are added.

    It keeps sums of z, z squared, f(z) and z f(z) per channel, in float64.
    """

    def __init__(self, line: Affine) -> None:
        assert line.replaced is not None
        self.line, self.function = line, evaluated(line.replaced)
        self.sums: list[Tensor | float] = [0.0, 0.0, 0.0, 0.0]
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add an input of the stand-in."""
        axis = self.line.axis if -x.dim() <= self.line.axis < x.dim() else -1
        for part in x.detach().split(max(1, _AT_ONCE * len(x) // max(x.numel(), 1))) if x.dim() > 1 else (x.detach(),):
            value = self.function(part).movedim(axis, -1)
            z = part.double().movedim(axis, -1)
            channels = len(self.line.weight)
            z, value = (
                values.reshape(-1, channels) if channels > 1 else values.reshape(-1, 1) for values in (z, value)
            )
            for place, term in enumerate((z, z.square(), value, z * value)):
                self.sums[place] = self.sums[place] + term.sum(0)
            self.count += len(z)

    @torch.no_grad()
    def solve(self, path: str) -> None:
        """Give the stand-in, found at `path`, slope and intercept of the least-squares line.

        Raises:
            BadValue: an input was not finite.
        """
        mean, square, value, product = (torch.as_tensor(total) / max(self.count, 1) for total in self.sums)
        variance = square - mean.square()
        constant = variance <= _CONSTANT * square
        slope = (product - mean * value) / torch.where(constant, 1.0, variance)
        slope = torch.where(constant, self.line.weight.detach().double(), slope)
        intercept = value - slope * mean
        if not bool(torch.isfinite(slope).all() and torch.isfinite(intercept).all()):
            raise BadValue(f"The input of {path} is not finite.", try_="batches the model was made for")
        self.line.weight.copy_(slope)
        self.line.bias.copy_(intercept)
