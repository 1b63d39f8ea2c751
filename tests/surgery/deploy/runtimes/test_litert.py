"""LiteRT: inputs and outputs in their order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.deploy.runtimes.litert import place_of


@pytest.mark.parametrize("name", ["serving_default_args_{}:0", "StatefulPartitionedCall:{}"])
def test_inputs_and_outputs_are_ordered_by_number(name: str) -> None:
    listed = [{"name": name.format(number)} for number in (10, 1, 0, 2, 11)]
    assert [detail["name"] for detail in sorted(listed, key=place_of)] == [name.format(n) for n in (0, 1, 2, 10, 11)]


class Many(nn.Module):
    """Twelve inputs and as many outputs, all of one shape."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple((x * (place + 1)).relu() for place, x in enumerate(inputs))


@pytest.mark.runtimes
@pytest.mark.filterwarnings("ignore")
def test_a_network_with_many_inputs_and_outputs_agrees() -> None:
    pytest.importorskip("litert_torch")
    report = surgery.deploy.check(Many(), "litert", tuple(torch.randn(2, 3) for _ in range(12)), batches=(1,))
    assert report.ok, report
