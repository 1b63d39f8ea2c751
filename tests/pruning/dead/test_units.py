"""Dead units of every weight, against values by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.dead.rates import dead_neurons
from pruning.dead.units import dead_units
from pruning.masks.masks import Masks
from tests.pruning.dead.two_layers import ONES, Two


def test_weights_that_lead_to_dead_units() -> None:
    found = dead_units(Two(), ONES, Masks.of(Two()))
    assert {name: units.tolist() for name, units in found.items()} == {
        "conv.weight": [False, True, False, False],  # the last has no unpruned weight
        "fc.weight": [False, True],
    }
    for masks in (Masks.full(Two()), None):  # these zeros are not pruned
        assert dead_units(Two(), ONES, masks)["conv.weight"].tolist() == [False, True, False, True]


def test_a_weight_of_several_calls_leads_to_a_dead_unit_if_all_are() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 3)
            with torch.no_grad():
                self.fc.weight.fill_(1)
                self.fc.bias.copy_(torch.tensor([-9.0, -1.5, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            return torch.relu(x) + torch.relu(x + 1.0)

    model = Forked()
    assert [row.dynamic for row in dead_neurons(model, [torch.ones(2, 1)]).rows] == [2, 1]
    assert dead_units(model, [torch.ones(2, 1)])["fc.weight"].tolist() == [True, False, False]
