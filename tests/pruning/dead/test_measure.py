"""One pass over batches measures the outputs of calls and the mean inputs of layers, against values by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.dead.measure import measure
from tests.pruning.dead.two_layers import ONES, Two


def test_mean_inputs_worked_by_hand() -> None:
    model = Two()
    means = measure(model, ONES, 0.0, "nonlinearity", ["conv.weight", "fc.weight"]).inputs
    assert means["conv.weight"].tolist() == pytest.approx([(8 + 1) / 12])
    assert means["fc.weight"].tolist() == pytest.approx([(1 + 1 + 0.25) / 3, 0, 1, 0])
    assert measure(model, ONES, 0.0, "nonlinearity").inputs == {}


def test_mean_inputs_of_grouped_and_unreached_layers() -> None:
    class Unreached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare, self.fc = nn.Conv2d(4, 4, 1, groups=2), nn.Linear(2, 2), nn.Linear(4, 3)
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).flatten(2).transpose(1, 2)
            return torch.relu(self.fc(input=self.attention(x, x, x)[0]))

    model, x = Unreached(), torch.rand(3, 4, 2, 2)
    names = ["conv.weight", "spare.weight", "fc.weight", "attention.in_proj_weight"]
    means = measure(model, [x[:2], x[2:]], 0.0, "nonlinearity", names).inputs
    assert set(means) == {"conv.weight", "fc.weight"}
    torch.testing.assert_close(means["conv.weight"], x.mean((0, 2, 3)))
    with torch.no_grad():
        rows = model.conv(x).flatten(2).transpose(1, 2)
        torch.testing.assert_close(means["fc.weight"], model.attention(rows, rows, rows)[0].mean((0, 1)))


def test_inputs_are_recorded_in_the_pass_that_records_outputs() -> None:
    model, forwards = Two(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with_inputs = measure(model, ONES, 0.0, "nonlinearity", ["conv.weight"])
    assert len(forwards) == len(ONES)
    without = measure(Two(), ONES, 0.0, "nonlinearity")
    assert [tally.outputs for _, tally in with_inputs.seen] == [tally.outputs for _, tally in without.seen]
    assert not model.conv._forward_pre_hooks
