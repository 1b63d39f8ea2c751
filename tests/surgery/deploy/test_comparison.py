"""What a network is tried on, and how errors are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.deploy.comparison import Compared, check_batches, compared, max_error
from surgery.deploy.network import network_of
from surgery.errors import BadValue
from tests.asserts import assert_raises


def test_inputs_are_the_example_and_random_ones_of_every_batch_size() -> None:
    network = network_of(nn.Linear(3, 2), torch.randn(4, 3))
    seen: list[int] = []

    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(len(inputs[0]))
        return [output + 0.5 for output in network.run(inputs)]

    found = compared(network, run, (1, 3))
    assert [(run.inputs, run.batch) for run in found] == [
        ("the example", 4), ("random", 1), ("random", 3), ("random, three times as wide", 4),
    ]  # fmt: skip
    assert seen == [1] * 12  # not for any batch: one by one
    assert all(abs(run.error - 0.5) < 1e-6 and abs(run.relative - 0.5 / run.largest) < 1e-6 for run in found)


def test_errors_are_infinite_where_shape_or_finiteness_differs() -> None:
    x, inf = torch.tensor([1.0, 2.0]), float("inf")
    assert max_error([x], [x + torch.tensor([0.0, 0.25])]) == 0.25
    assert max_error([x], [x[None]]) == inf
    assert max_error([x / 0], [x / 0]) == 0
    assert max_error([x], [x * float("nan")]) == inf
    assert max_error([-x / 0], [x]) == inf


def test_integers_are_rows_of_the_example() -> None:
    network = network_of(nn.Embedding(9, 2), torch.tensor([[1, 2], [3, 4]]))
    found = compared(network, lambda inputs: list(network.run(inputs)), (3,))
    assert all(run.error == 0 for run in found) and len(found) == 3


class Detector(nn.Module):
    """Scores of each image, anchors that are the same for all, a number, and three boxes for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.register_buffer("anchors", torch.randn(7, 4))

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        return self.line(x), self.anchors, torch.tensor(0.5), x.repeat_interleave(3, 0)


def test_outputs_without_a_batch_axis_are_compared_as_they_are() -> None:
    network = network_of(Detector(), torch.randn(2, 3))
    same = compared(network, lambda inputs: list(network.run(inputs)))
    assert all(run.error < 1e-6 for run in same)
    off = compared(network, lambda inputs: [output + 1 for output in network.run(inputs)])
    assert all(abs(run.error - 1) < 1e-6 for run in off)


class Masked(nn.Module):
    """Its first logit is minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.full_like(x[:, :1], -torch.inf), x), 1)


def test_an_infinite_output_does_not_hide_errors() -> None:
    network = network_of(Masked(), torch.randn(2, 3))
    same = compared(network, lambda inputs: list(network.run(inputs)))
    wrong = compared(network, lambda inputs: [7 * output + 3 for output in network.run(inputs)])
    assert all(run.agrees and 0 < run.largest < 100 for run in same)
    assert not any(run.agrees for run in wrong) and min(run.relative for run in wrong) > 1


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 1e-3])
def test_errors_that_are_not_finite_never_agree(error: float) -> None:
    run = Compared("random", 1, error, largest=2.0)
    assert not run.agrees and run.relative in (5e-4, float("inf"))


class Positive(nn.Module):
    """Flags, and an output without numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x > 0, x[:, :0]


def test_flags_and_empty_outputs_are_compared() -> None:
    network = network_of(Positive(), torch.randn(2, 3))
    assert all(run.agrees for run in compared(network, lambda inputs: list(network.run(inputs))))
    found = compared(network, lambda inputs: [~network.run(inputs)[0], inputs[0][:, :0]])
    assert all(run.error == 1 for run in found)


@pytest.mark.parametrize("batches", [("a",), (1.5,), (-1,), (1, 0), 5, "12"])
def test_batch_sizes_are_whole_numbers_from_one_on(batches: Any) -> None:
    assert_raises(BadValue, lambda: check_batches(batches), repr(batches), "from 1 on")
