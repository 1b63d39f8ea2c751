"""Comparison: the inputs that a network is tried on, and how far its outputs on a target are from those of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run
from surgery.errors import BadValue
from surgery.rng import seeded

BATCHES = (1, 2, 5)
TOLERANCE = 1e-4  # of the largest output; float32 in another order of summation stays near 1e-6
HALF_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Compared:
    """One forward on the target: the input, its batch size, the maximum error, and the largest finite output of torch.

    The error is infinite where one of the two is not finite and the other is, or where shapes differ.
    """

    inputs: str
    batch: int
    error: float
    largest: float

    @property
    def relative(self) -> float:
        """The maximum error over the largest output; infinite if the error is not finite."""
        if not math.isfinite(self.error):
            return float("inf")
        return self.error / self.largest if self.largest else self.error

    @property
    def agrees(self) -> bool:
        """Whether the target computes here what torch does."""
        return self.relative <= TOLERANCE


def compared(network: Network, run: Run, batches: Sequence[int] = BATCHES) -> tuple[Compared, ...]:
    """Run the example, random inputs of each batch size, and ones three times as wide; compare all with torch.

    `network` has the example's arguments. `run` is given batches as `network.any_batch` says: whole or one by one.
    """
    found = []
    for what, inputs in _tried(network.args, batches):
        wanted = network.run(inputs)
        outputs = run(inputs) if network.any_batch else _row_by_row(run, inputs, wanted)
        found.append(Compared(what, len(inputs[0]), max_error(outputs, wanted), _largest(wanted)))
    return tuple(found)


def check_batches(batches: Sequence[int]) -> None:
    """Check that these are batch sizes.

    Raises:
        BadValue: they are not whole numbers from 1 on.
    """
    if not isinstance(batches, Sequence) or not all(isinstance(size, int) and size >= 1 for size in batches):
        raise BadValue("Batch sizes are whole numbers from 1 on.", asked=repr(batches), try_="batches=(1, 2, 5)")


def max_error(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference between two lists of tensors; infinite where they differ in shape or in being finite."""
    if [output.shape for output in outputs] != [output.shape for output in wanted]:
        return float("inf")
    errors = [0.0]
    for output, other in zip(outputs, wanted, strict=True):
        same = (output == other) | (output.isnan() & other.isnan())
        apart = (output.double() - other.double()).abs().masked_fill(same, 0.0)
        errors.append(apart.nan_to_num(float("inf"), float("inf")).max().item() if apart.numel() else 0.0)
    return max(errors)


def _row_by_row(run: Run, inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor]:
    results = [run(row) for row in zip(*(tensor.split(1) for tensor in inputs), strict=True)]
    return [_joined(rows, whole) for rows, whole in zip(zip(*results, strict=True), wanted, strict=False)]


def _joined(rows: Sequence[Tensor], whole: Tensor) -> Tensor:
    """One output of all rows: joined where each has its own part of it; else, as with anchors, that of the first."""
    has_batch = all(row.dim() for row in rows) and whole.shape[:1] == (sum(len(row) for row in rows),)
    return torch.cat(list(rows)) if has_batch else rows[0]


def _largest(outputs: Sequence[Tensor]) -> float:
    """The largest finite number in them, without its sign; 0 if there is none."""
    finite = [output[output.isfinite()].double().abs() for output in outputs]
    return max((numbers.max().item() for numbers in finite if numbers.numel()), default=0.0)


def _tried(args: Sequence[Tensor], batches: Sequence[int]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    yield "the example", tuple(args)
    with seeded():
        for batch in batches:
            yield "random", tuple(_like(arg, batch, 1.0) for arg in args)
        yield "random, three times as wide", tuple(_like(arg, len(arg), 3.0) for arg in args)


def _like(tensor: Tensor, batch: int, width: float) -> Tensor:
    """Random numbers with mean and standard deviation of a tensor; its own rows where it is not floating point."""
    rows = torch.arange(batch) % len(tensor)
    if not tensor.is_floating_point():
        return tensor[rows]
    deviation, mean = torch.std_mean(tensor.float(), correction=0)
    drawn = torch.randn(batch, *tensor.shape[1:]) * width * (deviation if deviation > 0 else 1.0) + mean
    return drawn.to(tensor.dtype)
