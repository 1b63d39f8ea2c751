"""Blocks: a residual block that is linear inside becomes one convolution, whatever its shortcut."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.merging.groups import linear_groups
from surgery.merging.maps.linear_map import LinearMap
from surgery.merging.merged_model import merge
from tests.models import randomise
from tests.surgery.merging.jacobian import matrix_of
from tests.surgery.merging.networks import Inverted, Residual

X = torch.randn(2, 4, 10, 12, dtype=torch.float64)


def erased(block: nn.Module, x: Tensor = X, sites: str = "*act1", stand_in: str = "affine") -> nn.Module:
    model = randomise(nn.Sequential(block, nn.Conv2d(4 if isinstance(block, Inverted) else 8, 2, 1))).eval().to(x.dtype)
    return surgery.transform(model, surgery.erase(activation="*", site=sites, stand_in=stand_in), x)[0]


KINDS = [("projection", 1), ("projection", 2), ("pool", 2), ("option a", 1), ("option a", 2), ("identity", 1)]


@pytest.mark.parametrize(("skip", "stride"), KINDS)
@pytest.mark.parametrize("groups", (1, 4))
def test_a_residual_block_becomes_one_convolution(stride: int, skip: str, groups: int) -> None:
    x = torch.randn(2, 8, 10, 12, dtype=torch.float64) if skip == "identity" else X
    model = erased(Residual(x.shape[1], 8, stride, skip, groups), x)
    before = copy.deepcopy(model)
    merged, report = merge(model, example=x)
    assert [row.group.kind for row in report.merged] == ["block"]
    assert list(dict(merged[0].named_parameters())) == ["conv1.weight", "conv1.bias", "act2.weight"]
    assert merged[0].conv1.kernel_size == (3 + 2 * stride,) * 2
    assert merged[0].conv1.groups == (groups if skip == "identity" else 1)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), before(x), rtol=1e-12, atol=1e-12)
        shape = (1, x.shape[1], 6, 8)
        without = copy.deepcopy(before[0])
        without.act2 = nn.Identity()
        matrix, constant = matrix_of(without, shape)
        own, own_constant = matrix_of(merged[0].conv1, shape)
    torch.testing.assert_close(own, matrix, rtol=0, atol=1e-12 * float(matrix.abs().max()))
    torch.testing.assert_close(own_constant, constant, rtol=1e-12, atol=1e-12)


def test_float32_blocks_are_exact_to_rounding() -> None:
    x = torch.randn(2, 8, 14, 14)
    _, report = merge(erased(Residual(8, 8), x), example=x)
    assert report.exact <= 1e-12 and report.merged[0].error <= 1e-5 and report.error <= 1e-5


def test_a_block_without_an_activation_behind_it() -> None:
    merged, report = merge(erased(Residual(4, 8, 2, "projection", act=False)), example=X)
    assert report.merged[0].group.layers[:4] == ("0.conv1", "0.bn1", "0.act1", "0.conv2")
    assert list(merged[0]._modules) == ["conv1"]


def test_an_inverted_residual_becomes_one_convolution(tmp_path: Path) -> None:
    model = erased(Inverted(4, 12), sites="*bn?.act", stand_in="identity")
    merged, report = merge(model, example=X)
    (row,) = report.merged
    assert row.group.sites == ("0.bn1.act", "0.bn2.act") and row.group.kernel == (3, 3)
    assert row.group.macs_before == 12 * 14 * 4 * 12 + 10 * 12 * (9 * 12 + 12 * 4)
    assert row.group.macs_after == 10 * 12 * 4 * 4 * 9
    assert list(merged[0]._modules) == ["conv_pw", "act"] and type(merged[0].act) is nn.ReLU
    surgery.save(merged, tmp_path)
    fresh = nn.Sequential(Inverted(4, 12), nn.Conv2d(4, 2, 1)).double().eval()
    assert torch.equal(surgery.load(tmp_path, fresh)(X), merged(X))
    surgery.undo(merged, 1)
    assert torch.equal(merged(X), model(X)) and type(merged[0]) is Inverted


def test_padding_in_the_second_convolution_keeps_a_block() -> None:
    groups = linear_groups(erased(Residual(4, 8, 2, "projection", moved=False)), X)
    (block,) = (group for group in groups if group.kind == "block")
    assert block.reason.startswith("the second convolution pads by 1x1 behind a") and block.sites == ("0.act1",)
    assert not any(group.kind == "block" for group in groups.mergeable)
    circular = linear_groups(erased(Residual(4, 8, 1, "projection", moved=False, mode="circular")), X)
    assert [group.kind for group in circular.mergeable] == ["block"]


def test_a_gate_keeps_a_block() -> None:
    groups = linear_groups(erased(Inverted(4, 12, gate=True), sites="*bn?.act", stand_in="identity"), X)
    assert [group.kind for group in groups.mergeable] == ["chain"] * 2
    assert "read 2 times" in next(group.reason for group in groups.refused if "0.bn2.act" in group.sites)


class Leaking(Residual):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.bn1(self.conv1(x))
        return self.act2(self.bn2(self.conv2(self.act1(self.last))) + self.downsample(x)) * self.last.mean()


class Branches(nn.Module):
    """Parallel convolutions, as RepVGG trains them."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.small, self.bn2, self.bn3 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.large(x)) + self.bn2(self.small(x)) + self.bn3(x)


def test_parallel_branches_become_one_convolution() -> None:
    model = nn.Sequential(Branches(), nn.ReLU(), Branches(), nn.ReLU())
    merged, report = merge(randomise(model).double().eval(), example=X)
    assert [row.group.path for row in report.merged] == ["0", "2"] and report.error <= 1e-12
    assert list(merged.state_dict()) == ["0.large.weight", "0.large.bias", "2.large.weight", "2.large.bias"]
    assert isinstance(report.merged[0].group.macs_after, int) and LinearMap.identity(4).inputs == 4


@pytest.mark.slow
def test_what_is_read_outside_or_hooked_keeps_a_block() -> None:
    leaking = linear_groups(erased(Leaking(4, 8, 2, "projection"), stand_in="identity"), X)
    assert not any(group.kind == "block" for group in leaking.mergeable)
    model = erased(Residual(4, 8, 2, "projection"))
    model[0].bn1.register_forward_hook(lambda *_: None)
    (block,) = (group for group in linear_groups(model, X) if group.kind == "block")
    assert block.reason == "it has hooks"


class Outer(nn.Module):
    """A residual block inside another one, behind a convolution whose padding keeps the outer one apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner, self.last = nn.Conv2d(8, 8, 3, padding=1), Residual(8, 8, act=False), nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.conv(x)) + x)


def test_a_block_inside_one_that_cannot_be_merged_is_merged() -> None:
    x = torch.randn(2, 8, 10, 12, dtype=torch.float64)
    groups = linear_groups(erased(Outer(), x), x)
    assert [(group.path, group.kind) for group in groups.mergeable] == [("0.inner", "block")]
    assert [group.path for group in groups.refused] == []
