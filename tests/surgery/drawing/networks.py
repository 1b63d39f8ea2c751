"""Networks to draw: real ones of each kind, and one of four hundred calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import nn

import surgery
from surgery import Plan
from tests.models import ResidualNet


def faster_rcnn() -> nn.Module:
    return torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64
    )


def of_timm(name: str) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        with torch.device("meta"):
            return timm.create_model(name)

    return made


# How to build it, and how many calls, blocks and stages it has.
REAL = [
    pytest.param(of_timm("resnet50"), (49, 16, 5), id="resnet50"),
    pytest.param(of_timm("vit_base_patch16_224"), (12, 12, 1), id="vit"),
    pytest.param(faster_rcnn, (57, 18, 7), id="fasterrcnn", marks=pytest.mark.slow),
    pytest.param(of_timm("efficientnet_l2"), (348, 88, 9), id="efficientnet_l2", marks=pytest.mark.slow),
]


def four_hundred() -> Plan:
    """A plan that swaps four hundred calls, in four stages of fifty blocks."""
    one = surgery.find_sites(ResidualNet(), ResidualNet.example)
    items = [
        replace(site, owner=owner, block=owner, module=f"{owner}.relu")
        for owner in (f"backbone.stages.{number // 50}.blocks.{number % 50}" for number in range(200))
        for site in one[1:3]
    ]
    return surgery.make_plan(surgery.Sites(tuple(items), one.example, "Deep"), surgery.swap("hardswish"))
