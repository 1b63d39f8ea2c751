"""The ResNets for CIFAR are those of the paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recipes.models.build import build
from recipes.models.names import names

# Counted by hand from the paper: 3 n blocks of two convolutions with their norms, a stem and a linear layer.
CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
def test_a_cifar_resnet_is_the_one_of_the_paper(depth: int) -> None:
    model = build(f"cifar/resnet{depth}")
    assert sum(parameter.numel() for parameter in model.parameters()) == CIFAR_PARAMETERS[depth]
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == depth - 1
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert f"resnet{depth}" in names("cifar") and len(names("cifar")) == len(CIFAR_PARAMETERS) + 2


def test_the_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = build("cifar/resnet20").get_submodule("layer2.0")
    x = torch.rand(1, 16, 8, 8)
    shortcut = block.shortcut(x)  # type: ignore[operator]
    assert shortcut.shape == (1, 32, 4, 4)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any() and not shortcut[:, 24:].any()
