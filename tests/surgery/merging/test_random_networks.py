"""Random networks of all that merges, whole: exact in float64, to rounding in float32, and saved."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.activations import Affine
from tests.models import randomise
from tests.surgery.merging.networks import NormAct

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MODES = ("zeros", "circular", "reflect", "replicate")


def network(draw: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """A chain of convolutions with norms, stand-ins, pools, dropout and a few activations, and an input."""
    axes = draw.choice((1, 2, 2, 3))
    layers: list[nn.Module] = []
    width = 8
    for _ in range(draw.randint(2, 5)):
        groups, wider = draw.choice((1, 2, 4, 8)), draw.choice((8, 16))
        more: dict[str, Any] = {"stride": draw.choice((1, 1, 2)), "dilation": draw.choice((1, 1, 2))}
        kernel, padding = draw.choice((1, 1, 2, 3)), draw.choice((0, 0, 1))
        mode = draw.choice(MODES)
        layers.append(CONVOLUTIONS[axes](width, wider, kernel, padding=padding, groups=groups, padding_mode=mode,
                                         bias=draw.random() < 0.5, **more))  # fmt: skip
        width = wider
        if draw.random() < 0.7:
            eps, affine = draw.choice((1e-5, 1e-3, 0.1)), draw.random() < 0.8
            layers.append(NORMS[axes](width, eps=eps, affine=affine))
        behind = [Affine(width), Affine(1), nn.Dropout(0.5), nn.Identity(), nn.ReLU(), nn.Tanh(), nn.PReLU(width)]
        layers += draw.sample(behind, draw.randint(0, 2))
        if axes == 2 and draw.random() < 0.2:
            layers.append(draw.choice((nn.AvgPool2d(2, 1), nn.ZeroPad2d((1, 0, 2, 1)), NormAct(width, nn.SiLU()))))
    return nn.Sequential(*layers), torch.randn(2, 8, *(draw.randint(24, 26) for _ in range(axes)))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
def test_random_networks_merge_exactly(part: int) -> None:
    merged_layers, refusals = 0, 0
    for seed in range(part * 15, part * 15 + 15):
        torch.manual_seed(seed)
        model, x = network(random.Random(seed))
        randomise(model, seed).eval()
        for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            one, given = model.to(dtype), x.to(dtype)
            groups = surgery.linear_groups(one, given)
            refusals += len(groups.refused)
            if not groups.mergeable:
                continue
            merged, report = surgery.merge(one, example=given)
            merged_layers += sum(len(row.group.layers) for row in report.merged)
            with torch.no_grad():
                wanted, got = one(given), merged(given)
            assert float((got - wanted).abs().max()) <= limit * float(wanted.abs().max().clamp_min(1e-30)), seed
            assert max(row.exact for row in report.merged) <= 1e-12, seed
    assert merged_layers >= 100 and refusals >= 2
