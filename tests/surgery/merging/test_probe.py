"""The probe: kernels of modules whose code cannot be read, read off their Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.merging.maps.linear_map import NotMergeable
from surgery.merging.merged_model import merge
from surgery.merging.probe import probed
from tests.models import randomise
from tests.surgery.merging.jacobian import apply

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.parametrize("axes", (1, 2, 3))
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 4), (1, 2, 2), (2, 1, 1)])
def test_the_kernel_is_found_with_its_stride_padding_and_groups(
    axes: int, stride: int, dilation: int, groups: int
) -> None:
    layer = CONVOLUTIONS[axes](4, 8, 3, stride, padding=1, dilation=dilation, groups=groups).double()
    x = torch.randn(2, 4, *(11, 12, 9)[:axes], dtype=torch.float64)
    made = probed(layer, tuple(x.shape))
    assert (made.stride, made.groups) == ((stride,) * axes, groups)
    with torch.no_grad():
        torch.testing.assert_close(apply(made, x), layer(x), rtol=1e-12, atol=1e-12)


class Called(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


OTHER: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "not linear": (torch.tanh, "it is not linear"),
    "global": (lambda x: x - x.mean((2, 3), keepdim=True), "reads all of its input|border"),
    "flipped": (lambda x: x.flip(2), "it is not the same at all places|border"),
    "reflected": (lambda x: nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1),
                  "its border has no exact form"),
    "constant": (torch.zeros_like, "does not depend on its input"),
    "flat": (lambda x: x.flatten(1), "does not return an image"),
    "fails": (lambda x: x @ torch.ones(2, 2), "does not run alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_what_is_no_convolution_is_refused(case: str) -> None:
    call, why = OTHER[case]
    with pytest.raises(NotMergeable, match=why):
        probed(Called(call), (2, 4, 12, 13))
    with pytest.raises(NotMergeable, match="not an image"):
        probed(nn.Linear(4, 4), (2, 4))


class Doubled(torch.autograd.Function):
    """A function with a gradient of its own, which no rule knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * 2


class Shuffled(nn.Module):
    """Two branches that are concatenated and shuffled, as in ShuffleNet, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(4, 8, 1, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(8, 4, 3), nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        half, other = x.chunk(2, 1)
        y = torch.cat([Doubled.apply(half), self.conv2(self.act1(self.bn1(self.conv1(other))))], 1)
        return self.act2(y.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2) + x)


def test_a_block_of_unknown_operations_is_probed() -> None:
    x = torch.randn(2, 8, 10, 11, dtype=torch.float64)
    model = randomise(nn.Sequential(Shuffled(), nn.Conv2d(8, 2, 1))).double().eval()
    edited, _ = surgery.transform(model, surgery.erase(site="0.act1"), x)
    merged, report = merge(edited, example=x)
    assert [(row.group.path, row.group.kind, row.group.kernel) for row in report.merged] == [("0", "block", (3, 3))]
    assert list(dict(merged[0].named_parameters())) == ["conv1.weight", "conv1.bias", "act2.weight"]
    torch.testing.assert_close(merged(x), edited(x), rtol=1e-12, atol=1e-12)
    kept = surgery.linear_groups(model, x)
    assert not any(group.kind == "block" for group in kept)
