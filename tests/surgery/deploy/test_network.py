"""A network to export: flat tensors in and out, from a copy, for one batch or for all; what cannot be exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.deploy.network import network_of
from surgery.errors import BadValue, DynamicShapes, NoExample, NotConvertible
from tests.asserts import assert_raises, assert_untouched
from tests.surgery.small_net import SmallNet


class Keywords(nn.Module):
    """Two inputs, one by keyword; nested results."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: Tensor, *, mask: Tensor) -> dict[str, Any]:
        return {"scores": self.line(x).relu(), "parts": (x * mask, [mask])}


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.sum() > 0 else x


class WholeBatch(nn.Module):
    """Runs on batches of two alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1).relu()


def test_arguments_and_results_are_flat() -> None:
    x, mask = torch.randn(4, 3), torch.ones(4, 3)
    network = network_of(Keywords(), {"x": x, "mask": mask})
    scores, masked, same = network.outputs
    assert torch.equal(masked, x) and torch.equal(same, mask) and (scores >= 0).all()
    found = network.program.module()(x, mask)
    assert all(torch.equal(got, other) for got, other in zip(found, network.outputs, strict=True))


def test_the_model_is_left_alone() -> None:
    model = SmallNet().train()
    with assert_untouched(model):
        network = network_of(model)
        _ = network.one_by_one().program
    assert not network.model.training


def test_one_program_serves_every_batch() -> None:
    network = network_of(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(1, 3)).for_any_batch()
    run = network.program.module()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3)
        assert torch.equal(run(x)[0], network.run([x])[0])


def test_a_network_for_one_batch_size_says_so() -> None:
    network = network_of(WholeBatch(), torch.randn(2, 3))
    with pytest.raises((NotConvertible, DynamicShapes)):
        network.for_any_batch()


def test_half_precision_is_a_copy() -> None:
    network = network_of(nn.Linear(3, 2), torch.randn(2, 3))
    assert network.half().outputs[0].dtype == torch.float16
    assert network.outputs[0].dtype == torch.float32


def test_what_depends_on_values_is_refused() -> None:
    network = network_of(Branches(), torch.randn(2, 3))
    assert_raises(DynamicShapes, lambda: network.program, "Branches depend on the values of its input", "features")


def test_a_model_without_an_example_is_refused() -> None:
    assert_raises(NoExample, lambda: network_of(nn.ReLU()), "no default input", "example=")


def test_only_single_precision_is_exported() -> None:
    assert_raises(BadValue, lambda: network_of(nn.Linear(3, 2).half()), "torch.float16", ".float()")


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ((torch.randn(2, 3), 7), "Tensor, int"),
        ((), "no arguments"),
        (torch.tensor(1.0), "batch axis"),
        ((torch.randn(2, 3), torch.randn(1, 3)), "(2, 3), (1, 3)"),
    ],
)
def test_examples_that_cannot_be_exported(example: Any, says: str) -> None:
    assert_raises(BadValue, lambda: network_of(nn.Linear(3, 2), example), says)
