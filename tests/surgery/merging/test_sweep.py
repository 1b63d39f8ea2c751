"""Sweeps over networks of torchvision and timm: folded batch norms, and linearised networks, are exact; how many."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import surgery
from surgery.merging.padding import moved_padding
from tests.models import randomise

IMAGES = torch.randn(1, 3, 64, 64)


def network(name: str) -> Any:
    library, _, architecture = name.partition("/")
    torch.manual_seed(0)
    made = (timm.create_model(architecture) if library == "timm"
            else torchvision.models.get_model(architecture, weights=None))  # fmt: skip
    return randomise(made).eval()


# The batch norms before and after: those that stay stand behind a concatenation and in front of an activation, or, in
# the auxiliary heads of GoogLeNet, are not called in eval mode.
FOLDED = {
    "timm/efficientnet_b0": (49, 0), "timm/densenet121": (121, 62), "timm/mobilenetv2_100": (52, 0),
    "timm/regnetx_002": (44, 0), "timm/vgg16_bn": (13, 0), "timm/tf_efficientnet_lite0": (49, 0),
    "torchvision/mobilenet_v3_small": (34, 0), "torchvision/shufflenet_v2_x0_5": (56, 0),
    "torchvision/googlenet": (59, 2), "timm/hrnet_w18_small": (91, 0),
}  # fmt: skip


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FOLDED)
def test_batch_norms_fold_exactly(name: str) -> None:
    model = network(name)
    merged, report = surgery.merge(model, example=IMAGES)
    assert (batch_norms(model), batch_norms(merged)) == FOLDED[name]
    assert report.exact <= 1e-12 and max(row.error for row in report.merged) <= 1e-5 and report.error <= 1e-5


# Everything but gates erased, padding moved: merged blocks, merged chains, and groups that are refused.
LINEARISED = {
    "torchvision/resnet18": (8, 1, 1), "torchvision/mobilenet_v2": (10, 8, 1), "torchvision/mnasnet0_5": (10, 8, 1),
    "torchvision/regnet_x_400mf": (22, 1, 1), "timm/resnet10t": (4, 1, 1), "timm/mobilenetv2_100": (10, 8, 1),
    "timm/tf_efficientnet_lite0": (9, 13, 6), "timm/repvgg_a0": (22, 0, 0), "timm/convnext_atto": (0, 12, 0),
    "timm/regnetx_002": (13, 1, 1), "timm/dla34": (6, 17, 7), "timm/hrnet_w18_small": (23, 29, 12),
    "torchvision/shufflenet_v2_x0_5": (16, 2, 2),  # its blocks are probed
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEARISED)
def test_linearised_networks_merge_exactly(name: str) -> None:
    model, _ = surgery.transform(network(name), surgery.erase(activation="*", site="*"), IMAGES, skip_uneditable=True)
    for path, padding in moved_padding(model, IMAGES).items():
        model.get_submodule(path).padding = padding
    merged, report = surgery.merge(model, example=IMAGES)
    kinds = Counter(row.group.kind for row in report.merged)
    assert (kinds["block"], kinds["chain"], len(report.refused)) == LINEARISED[name]
    assert report.exact <= 1e-12 and max(row.error for row in report.merged) <= 1e-5 and report.error <= 1e-5
    assert type(merged) is type(model)
    assert sum(param.numel() for param in merged.parameters()) > 0


def test_the_sweeps_hold_enough_networks() -> None:
    assert len(FOLDED) == 10 and len(LINEARISED) == 13
    assert sum(blocks + chains for blocks, chains, _ in LINEARISED.values()) == 254
