"""Sections: where chains of units are cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import surgery
from surgery.activations import Affine
from surgery.merging.groups import sections_of
from surgery.merging.maps.values import Values
from surgery.merging.sections import layer_path
from tests.surgery.merging.networks import IMAGES, Plain, seen


def found(model: nn.Module, x: Tensor = IMAGES) -> list[tuple[str, ...]]:
    forward, _ = seen(model, x)
    return [section.paths for section in sections_of(model, forward, Values(model, shapes_only=True))
            if not section.reason]  # fmt: skip


def test_layers_join_where_that_costs_no_more() -> None:
    thin = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 3, 1))  # fewer channels between: one would cost more
    wide = nn.Sequential(nn.Conv2d(3, 9, 1), nn.Conv2d(9, 3, 1))
    assert found(thin) == [] and found(wide) == [("0", "1")]


def test_a_stand_in_joins_layers_whatever_that_costs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), Affine(1), nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1), nn.Conv2d(1, 3, 1))
    assert found(model) == [("0", "1", "2", "3")]


def test_a_norm_goes_into_the_layer_behind_it_if_there_is_none_in_front() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 4, 3), nn.ReLU())
    assert found(model) == [("0", "2")]
    assert found(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())) == []


class Skipping(nn.Module):
    """A residual block between the thin layers of others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + x


def test_a_dropped_block_or_a_folded_norm_does_not_join_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 3, 1), nn.BatchNorm2d(3), Skipping(),
                          nn.Conv2d(3, 9, 1), nn.ReLU())  # fmt: skip
    dropped, _ = surgery.transform(model, surgery.drop("4"), IMAGES)
    assert found(dropped) == [("2", "3")]
    merged, _ = surgery.merge(dropped, example=IMAGES)
    assert found(merged) == []


class Read(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x).relu() + x


def test_a_second_reader_keeps_layers_apart() -> None:
    assert found(Read()) == []


def test_tokens_join_on_their_last_axis() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 3))
    assert found(model, torch.randn(2, 5, 3)) == [("0", "2")]
    mixed = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(5), nn.Linear(3, 3))
    assert found(mixed, torch.randn(2, 5, 3)) == []


def test_a_section_has_the_place_of_its_first_layer_and_the_shape_of_its_map() -> None:
    model = Plain()
    forward, _ = seen(model)
    section = sections_of(model, forward, Values(model, shapes_only=True))[0]
    assert layer_path(section) == "conv1"
    assert section.map is not None and section.map.weight.is_meta and section.map.kernel == (3, 3)
