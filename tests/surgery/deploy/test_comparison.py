"""What a network is tried on, and how errors are counted."""

from __future__ import annotations

import torch
from torch import nn

from surgery.deploy.comparison import compared, max_error
from surgery.deploy.network import network_of


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
