"""Units: which modules are affine maps of one tensor, and which may not be replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from surgery.merging.maps.linear_map import NotMergeable
from surgery.merging.maps.values import Values
from surgery.merging.units import map_between, units_of, why_fixed
from tests.surgery.merging.networks import IMAGES, NormAct, Plain, seen


def test_convolutions_and_norms_are_units_with_their_costs() -> None:
    _, units = seen(Plain())
    assert [unit.path for unit in units] == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert [unit.heavy for unit in units] == [True, False, True, False, True]
    assert [unit.macs for unit in units] == [11 * 12 * 6 * 27, 0, 9 * 10 * 4 * 54, 0, 20]
    assert {unit.refusal for unit in units} == {""}


def test_a_norm_with_an_activation_is_a_unit_whose_children_remain() -> None:
    _, units = seen(nn.Sequential(nn.Conv2d(3, 4, 1), NormAct(4, nn.ReLU())))
    assert units[1].path == "1" and units[1].remains == ("drop", "act")


def test_what_the_map_cannot_be() -> None:
    model = Plain()
    forward, units = seen(model)
    values = Values(model)
    with pytest.raises(NotMergeable, match="relu is not linear"):
        map_between(forward, units[0].taken, units[2].returned, values)
    with pytest.raises(NotMergeable, match="it is the input"):
        map_between(forward, units[0].returned, units[0].taken, values)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.conv(x)))


def test_what_must_stay_says_why() -> None:
    model = Twice()
    forward, _ = seen(model)
    assert why_fixed(model, forward, "conv") == "it is called 2 times"
    assert why_fixed(model, forward, "other") == "" or "also used" in why_fixed(model, forward, "other")
    hooked = Plain()
    hooked.conv1.register_forward_hook(lambda *_: None)
    parametrizations.orthogonal(hooked.fc)
    forward, units = seen(hooked)
    assert why_fixed(hooked, forward, "conv1") == "it has hooks"
    assert why_fixed(hooked, forward, "fc") == "it has parametrisations"
    assert [unit.path for unit in units] == ["conv1", "bn1", "conv2", "bn2"]


def test_masked_weights_are_no_units() -> None:
    model = Plain()
    prune.random_unstructured(model.conv1, "weight", 0.5)
    _, units = seen(model)
    assert "conv1" not in [unit.path for unit in units]


def test_a_norm_by_its_batch_is_no_unit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert [unit.path for unit in seen(model)[1]] == ["0"]
    assert units_of(model, seen(model)[0], Values(model))[0].map.weight.dtype == torch.float64
    assert IMAGES.shape == (2, 3, 11, 12)
