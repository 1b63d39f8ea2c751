"""Known modules: their maps, against what they compute."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import surgery
from surgery.activations import Affine
from surgery.merging.maps.known_modules import is_known, operation_of_module
from surgery.merging.maps.linear_map import SIZED
from surgery.merging.maps.values import Values
from tests.models import randomise
from tests.surgery.merging.jacobian import apply

X = torch.randn(2, 4, 7, 8, dtype=torch.float64)


@pytest.mark.parametrize("module", [Affine(4), Affine(1), FrozenBatchNorm2d(4, eps=0.1)])
def test_the_map_is_what_the_module_computes(module: nn.Module) -> None:
    model = randomise(nn.Sequential(module)).double()
    operation = operation_of_module(model[0], "0", X)
    assert is_known(module) and operation is not None and operation.build is not None
    made = operation.build(Values(model), 4)
    with torch.no_grad():
        torch.testing.assert_close(apply(made.lifted(2), X), model(X), rtol=1e-12, atol=1e-12)


def test_activations_are_known_and_have_no_map() -> None:
    assert is_known(nn.ReLU()) and operation_of_module(nn.ReLU(), "relu", X) is None
    assert not is_known(nn.Conv2d(4, 4, 1)) and not is_known(nn.Identity())


@pytest.mark.parametrize("size", (31, 32))
def test_norms_fold_into_convolutions_that_pad_by_the_size_of_their_input(size: int) -> None:
    x = torch.randn(2, 4, size, size)
    model = randomise(nn.Sequential(Conv2dSame(4, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8))).eval()
    operation = operation_of_module(model[0], "0", x)
    assert operation is not None and operation.build is not None
    assert operation.build(Values(model), 4).mode == SIZED
    merged, report = surgery.merge(model, example=torch.randn(1, 4, 16, 16))
    assert type(merged[0]) is Conv2dSame and report.error <= 1e-5
    torch.testing.assert_close(merged(x), model(x), rtol=1e-5, atol=1e-5)
