"""Rounds of a single weight, computed by hand, base pruners for them, and a small VGG."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.vgg import make_layers

from pruning.masks.cut import count_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.rounds.round import Round

BEFORE = [-1.0, -2.0, -3.0, 0.5, 4.0, -9.0, 1.0, 7.0]
NOW = [-1.5, -2.1, -2.0, 0.75, 4.5, 0.0, 1.0, -0.1]
#  moved 0.5   0.1   1.0  0.25  0.5  9.0  0.0  7.1


def by_hand(before: list[float], now: list[float], dead: tuple[int, ...] = ()) -> Round:
    """A round of one weight (1, n); the positions `dead` were pruned before."""
    layer = nn.Linear(len(now), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([now]))
    mask = torch.tensor([[place not in dead for place in range(len(now))]])
    return Round.of(layer, {"weight": torch.tensor([before])}, Masks({"weight": mask}))


def nothing(round: Round, share: float) -> Masks:
    """A base pruner that cuts although it should cut nothing."""
    assert count_of(share, round.masks.alive) == 0
    return round.masks


def magnitude(round: Round, share: float) -> Masks:
    """A base pruner as a user might write it."""
    scores = {name: weight.abs() for name, weight in round.now.items()}
    return cut_lowest(round.masks, scores, count_of(share, round.masks.alive))


def cut_places(round: Round, masks: Masks) -> list[int]:
    return (round.masks["weight"] & ~masks["weight"]).flatten().nonzero().flatten().tolist()


def vgg_with_norms() -> tuple[nn.Module, tuple[int, ...]]:
    features = make_layers([8, "M", 16, 16, "M"], batch_norm=True)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)), (4, 3, 16, 16)
