"""Importance by dead neurons: dead channels go first, and then the smallest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from pruning.hosts import torch_pruning as host
from surgery.errors import BadValue, WrongModel
from tests.asserts import assert_raises
from tests.pruning.hosts.torch_pruning.marked_net import IMAGES, Net, found, mark, pruner_of


def group_of(model: nn.Module, layer: nn.Module, channels: list[int]) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, IMAGES)
    return graph.get_pruning_group(layer, tp.prune_conv_out_channels, channels)


def units(count: int, *dead: int) -> Tensor:
    return torch.tensor([channel in dead for channel in range(count)])


def test_dead_channels_go_first_and_then_the_smallest(net: Net) -> None:
    dead = {"left.weight": units(6, 4, 1)}
    plain = tp.importance.GroupMagnitudeImportance()(group_of(net, net.left, list(range(6))))
    scores = host.DeadNeuronImportance(net, dead)(group_of(net, net.left, list(range(6))))
    assert scores is not None and scores.shape == (6,)
    wanted = sorted(range(6), key=lambda channel: (channel not in (1, 4), float(plain[channel])))
    assert scores.argsort().tolist() == wanted
    assert (scores < 0).tolist() == dead["left.weight"].tolist()


def test_the_pruner_removes_dead_channels(net: Net) -> None:
    marks = mark(net)
    dead = {"left.weight": units(6, 0, 3, 5), "right.weight": units(10, 2, 4, 6, 8, 9), "last.weight": units(4, 1)}
    importance = host.DeadNeuronImportance(net, dead)
    host.step(pruner_of(net, importance=importance), example=IMAGES)
    places = found(net, marks)
    assert (places["left.weight"][:, 0, 0, 0] // 8).tolist() == [1, 2, 4]
    assert (places["right.weight"][:, 0, 0, 0] // 8).tolist() == [0, 1, 3, 5, 7]
    assert 1 not in (places["last.weight"][:, 0, 0, 0] // (16 * 9)).tolist()
    assert_raises(BadValue, lambda: importance(group_of(net, net.left, [0, 1, 2])), "left.weight", "measure")


def test_across_groups_no_living_channel_goes_before_a_dead_one(net: Net) -> None:
    with torch.no_grad():
        net.left.weight.mul_(100)
    dead = {"left.weight": units(6, 0, 1, 2, 3)}
    importance = host.DeadNeuronImportance(net, dead, tp.importance.GroupMagnitudeImportance(normalizer=None))
    pruner = pruner_of(net, importance=importance, global_pruning=True, pruning_ratio=0.11)
    marks = mark(net)
    with torch.no_grad():
        net.left.weight.mul_(100)
        net.left.weight.div_(100)
    host.step(pruner, example=IMAGES)
    places = found(net, marks)
    assert (places["left.weight"][:, 0, 0, 0] // 8).tolist() == [4, 5]
    assert net.right.out_channels == 10 and net.stem.out_channels == 8


def test_a_residual_channel_is_dead_if_all_that_make_it_say_so(net: Net) -> None:
    group = group_of(net, net.stem, list(range(8)))
    for dead, wanted in (
        ({"stem.weight": units(8, 1, 2)}, [1, 2]),
        ({"stem.weight": units(8, 1, 2), "body.weight": units(8, 2, 3)}, [2]),
        ({"stem.weight": units(8, 1, 2), "body.weight": units(8, 2, 3), "deep.weight": units(8)}, []),
        ({"last.weight": units(4, 0)}, []),  # of another group
        ({}, []),
    ):
        scores = host.DeadNeuronImportance(net, dead)(group)
        assert scores is not None and (scores < 0).nonzero().flatten().tolist() == wanted


class Wide(nn.Module):
    """The concatenated outputs of two convolutions are added to that of a third one."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.whole(x) + torch.cat([self.left(x), self.right(x)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", [list(range(8)), [7, 2, 0, 5, 6, 1, 3, 4]], ids=["in order", "in another order"])
def test_channels_of_a_concatenation_are_told_apart(order: list[int]) -> None:
    torch.manual_seed(0)
    model = Wide()
    dead = {"left.weight": units(3, 1), "right.weight": units(5, 0, 4), "whole.weight": units(8, 1, 2, 3, 7)}
    group = group_of(model, model.whole, order)
    plain = tp.importance.GroupMagnitudeImportance()(group)
    scores = host.DeadNeuronImportance(model, dead)(group)
    assert scores is not None and (scores < 0).nonzero().flatten().tolist() == [1, 3, 7]
    assert scores.argsort().tolist() == sorted(range(8), key=lambda c: (c not in (1, 3, 7), float(plain[c])))


def test_part_of_a_group_is_scored_by_position(net: Net) -> None:
    base = lambda group: torch.tensor([0.3, 0.1, 0.2])  # noqa: E731
    scores = host.DeadNeuronImportance(net, {"left.weight": units(6, 5, 2)}, base)(group_of(net, net.left, [5, 0, 2]))
    assert scores is not None and scores.argsort().tolist() == [2, 0, 1]


def test_scores_of_any_sign_and_none_are_understood(net: Net) -> None:
    group = group_of(net, net.left, list(range(6)))
    numbers = torch.tensor([-2.0, 5e-8, float("nan"), -2.5, 7.0, 6e-8])
    scores = host.DeadNeuronImportance(net, {"left.weight": units(6, 0, 4, 5)}, lambda _: numbers)(group)
    assert scores is not None and scores.argsort().tolist() == [0, 5, 4, 3, 2, 1]
    assert host.DeadNeuronImportance(net, {}, lambda _: None)(group) is None


def test_units_of_another_model_are_refused(net: Net) -> None:
    assert_raises(WrongModel, lambda: host.DeadNeuronImportance(net, {"nowhere.weight": units(3)}), "nowhere.weight")
    assert_raises(BadValue, lambda: host.DeadNeuronImportance(net, {"left.weight": torch.ones(6)}), "left.weight")
