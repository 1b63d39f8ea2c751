"""Survivors: where each entry of each parameter went, exactly, and what becomes of masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from pruning.hosts import torch_pruning as host
from pruning.masks.masks import Masks
from surgery.errors import WrongModel
from tests.asserts import assert_raises
from tests.pruning.hosts.torch_pruning.marked_net import IMAGES, Net, found, mark, pruner_of


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"round_to": 2, "pruning_ratio": 0.3}], ids=str)
def test_survivors_are_where_marked_weights_went(net: Net, options: dict[str, Any]) -> None:
    marks = mark(net)
    pruner = pruner_of(net, **options)
    before = dict(net.named_parameters())
    survivors = host.step(pruner, example=IMAGES)
    places = found(net, marks)
    cut = [name for name, param in net.named_parameters() if param is not before[name]]
    assert list(survivors) == cut and len(cut) >= 6
    for name in cut:
        assert torch.equal(survivors[name], places[name]), name
        assert torch.equal(survivors.of(name, before[name]), dict(net.named_parameters())[name]), name


def test_places_are_exact_beyond_what_float32_can_count() -> None:
    side = 4100
    assert side * side > 2**24
    model = nn.Sequential(nn.Linear(2, side), nn.Linear(side, side), nn.Linear(side, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[1::2] = 1  # the even ones go
        model[0].bias.zero_()
    # Only the first group is measured, by its first layer; the second layer loses every other column.
    importance = tp.importance.GroupMagnitudeImportance(group_reduction="first")
    pruner = pruner_of(model, torch.ones(1, 2), "2", importance=importance, ignored_layers=[model[1]])
    survivors = host.step(pruner, example=torch.ones(1, 2))
    rows, columns = torch.arange(side)[:, None], torch.arange(1, side, 2)[None]
    assert torch.equal(survivors["1.weight"], rows * side + columns)
    assert int(survivors["1.weight"][-1, -1]) == side * side - 1


def test_masks_are_cut_with_the_weights(net: Net) -> None:
    torch.manual_seed(1)
    masks = Masks({name: torch.rand_like(mask.float()) > 0.4 for name, mask in Masks.full(net).items()})
    masks.lay_over(net)
    survivors = host.step(pruner_of(net), example=IMAGES)
    smaller = survivors.masks(masks)
    assert smaller == Masks.of(net) and smaller.size < masks.size
    assert_raises(WrongModel, lambda: survivors.masks(smaller), "once")
