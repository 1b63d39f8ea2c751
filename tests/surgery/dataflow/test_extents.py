"""Extents: which sizes of a tensor depend on the example, and which on the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.dataflow.extents import Factor, Operand, extents_after, is_free
from tests import models

CONVOLVED = ((Factor(2, True),), (Factor(6, False),), (Factor(4, True),), (Factor(8, True),))


def after(
    name: str, shape: tuple[int, ...], *args: Any, kind: str = "shape", operands: list[Operand] | None = None
) -> list[bool] | None:
    """For each axis of a result of this shape: whether its extent depends on the example."""
    picture = Operand((2, 6, 4, 8), True, extents=CONVOLVED)
    found = extents_after(kind, name, (None, *args), {}, operands or [picture], 1, shape)
    return None if found is None else [is_free(extent) for extent in found]


def test_weights_fix_the_channels_and_nothing_else() -> None:
    picture, kernel = Operand((2, 3, 4, 8), True), Operand((6, 3, 1, 1), False, weight=True)
    assert extents_after("conv", "conv2d", (), {}, [picture, kernel], 1, (2, 6, 4, 8)) == CONVOLVED
    per_sample = Operand((12, 3, 1, 1), True)
    assert extents_after("conv", "conv2d", (), {}, [picture, per_sample], 1, (1, 12, 4, 8)) is None


def test_a_reshape_cuts_between_factors() -> None:
    assert after("flatten", (2, 192)) == [True, True]
    assert after("view", (2, 2, 3, 4, 8)) == [True, False, False, True, True]
    assert after("view", (2, 6, 32)) == [True, False, True]
    assert after("view", (2, 3, 64)) == [True, False, True]
    assert after("view", (2, 4, 48)) == [True, True, True]  # ends amid a factor: of 6 and 4
    assert after("view", (12, 4, 8)) == [True, True, True]
    assert after("unsqueeze", (2, 1, 6, 4, 8)) == [True, False, False, True, True]
    assert after("view", (2, 6, 4, 16)) is None  # of bytes, say


def test_what_is_flattened_comes_apart_again() -> None:
    flat = extents_after("shape", "flatten", (), {}, [Operand((2, 6, 4, 8), True, extents=CONVOLVED)], None, (2, 192))
    assert flat == (CONVOLVED[0], CONVOLVED[1] + CONVOLVED[2] + CONVOLVED[3])
    again = extents_after("shape", "view", (), {}, [Operand((2, 192), True, extents=flat)], None, (2, 6, 4, 8))
    assert again == CONVOLVED


def test_axes_are_moved_reduced_and_indexed() -> None:
    assert after("permute", (2, 4, 8, 6), 0, 2, 3, 1) == [True, True, True, False]
    assert after("mean", (2, 6), (2, 3), kind="pool") == [True, False]
    assert after("mean", (6, 4, 8), 0, kind="pool") == [False, True, True]
    assert after("mean", (), kind="pool") is None
    assert after("select", (2, 6, 8), 2, 0) == [True, False, True]
    assert after("__getitem__", (6, 1, 2, 8), (0, slice(None), None, slice(2))) == [False, False, True, True]
    assert after("__getitem__", (2, 6, 4), (..., 0)) == [True, False, True]
    assert after("__getitem__", (3, 8), torch.ones(2, 6, 4, dtype=torch.bool)) is None


def test_pools_to_a_size_fix_it() -> None:
    assert after("adaptive_avg_pool2d", (2, 6, 3, 3), 3, kind="pool") == [True, False, False, False]
    assert after("adaptive_avg_pool2d", (2, 6, 3, 8), (3, None), kind="pool") == [True, False, False, True]
    assert after("max_pool2d", (2, 6, 2, 4), 2, kind="pool") == [True, False, True, True]
    small = [Operand((2, 6, 1, 1), True, extents=(*CONVOLVED[:2], (), ()))]
    assert after("interpolate", (2, 6, 4, 8), kind="resize", operands=small) == [True, False, True, True]


def test_operands_that_are_added_have_one_size() -> None:
    first = Operand((2, 192), True, extents=((Factor(2, True),), (Factor(192, True),)))
    second = Operand((2, 192), True, extents=((Factor(2, True),), (Factor(192, False),)))
    bias, scalar = Operand((192,), False, weight=True), Operand((1,), False, weight=True)
    assert after("add", (2, 192), kind="add", operands=[first, second]) == [True, False]
    assert after("add", (2, 192), kind="scale", operands=[first, bias]) == [True, False]
    assert after("add", (2, 192), kind="scale", operands=[first, scalar]) == [True, True]
    assert after("cat", (2, 384), kind="concat", operands=[second, first]) == [True, True]
    assert after("cat", (2, 384), kind="concat", operands=[second, second]) == [True, False]


class Net(nn.Module):
    """A convolution of 3 to 6 channels, and any function of its result, layers and a ReLU."""

    def __init__(self, made: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.layers, self.act, self.made = nn.Conv2d(3, 6, 1), nn.ModuleList(layers), nn.ReLU(), made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self.conv(x), self.act, *self.layers).sum()


FIXED: dict[str, tuple[Callable[[], Net], int]] = {
    "linear in front": (lambda: Net(lambda x, act, fc: act(fc(x.flatten(1))), nn.Linear(96, 5)), 5),
    "linear behind": (lambda: Net(lambda x, act, fc: fc(F.dropout(act(x.flatten(1)))), nn.Linear(96, 5)), 96),
    "norm in front": (lambda: Net(lambda x, act, norm: act(norm(x.flatten(1))), nn.BatchNorm1d(96)), 96),
    "norm behind": (lambda: Net(lambda x, act, norm: norm(act(x.flatten(1))), nn.BatchNorm1d(96)), 96),
    "slopes": (lambda: Net(lambda x, act, slopes: slopes(x.flatten(1)), nn.PReLU(96)), 96),
    "mean": (lambda: Net(lambda x, act: act(x.mean((2, 3)))), 6),
    "global pool": (lambda: Net(lambda x, act: act(F.adaptive_avg_pool2d(x, 1).flatten(1))), 6),
    "pool to a size": (lambda: Net(lambda x, act: act(F.adaptive_max_pool2d(x, 2).flatten(1))), 24),
    "one pixel": (lambda: Net(lambda x, act: act(F.avg_pool2d(x, 4).flatten(1))), 6),
    "shuffle": (lambda: Net(lambda x, act: act(x.view(2, 2, 3, 4, 4).transpose(1, 2).reshape(2, -1, 4, 4))), 6),
    "unflatten": (lambda: Net(lambda x, act: act(x.flatten(1).unflatten(1, (6, 4, 4)))), 6),
    "unshuffle": (lambda: Net(lambda x, act: act(F.pixel_unshuffle(x, 2))), 24),
    "tokens": (lambda: Net(lambda x, act: act(x.flatten(2).mT)), 6),
    "anchors": (lambda: Net(lambda x, act: act(x.view(2, 2, 3, 4, 4).permute(0, 3, 4, 1, 2).reshape(2, -1, 3))), 3),
    "recurrent": (lambda: Net(lambda x, act, rnn: act(rnn(x.transpose(1, 3).flatten(2))[0]), nn.GRU(24, 7)), 7),
}
FREE: dict[str, tuple[Callable[[], Net], int]] = {
    "flatten": (lambda: Net(lambda x, act: act(x.flatten(1))), 96),
    "in place": (lambda: Net(lambda x, act: F.relu_(x.flatten(1))), 96),
    "one slope": (lambda: Net(lambda x, act, slopes: slopes(x.flatten(1)), nn.PReLU()), 96),
    "rows": (lambda: Net(lambda x, act: act(x.mean(2).flatten(1))), 24),
    "pool of rows": (lambda: Net(lambda x, act: act(F.adaptive_avg_pool2d(x, (2, None)).flatten(1))), 48),
    "resized": (
        lambda: Net(lambda x, act: act(F.interpolate(F.adaptive_avg_pool2d(x, 1), x.shape[2:]).flatten(1))), 96,
    ),
    "batch": (lambda: Net(lambda x, act: act(x.view(1, -1, 4, 4))), 12),
    "tokens": (lambda: Net(lambda x, act, fc: act(fc(x.flatten(2).mT).flatten(1)), nn.Linear(6, 3)), 48),
    "attention": (lambda: Net(lambda x, act: act(x.flatten(2).mT @ x.flatten(2))), 16),
    "concat": (lambda: Net(lambda x, act: act(torch.cat([x.mean((2, 3)), x.flatten(1)], 1))), 102),
    "anchors": (lambda: Net(lambda x, act: act(x.permute(0, 2, 3, 1).reshape(2, -1, 2, 3))), 16),
}  # fmt: skip


@pytest.mark.parametrize("way", FIXED)
def test_channels_that_the_network_fixes(way: str) -> None:
    build, channels = FIXED[way]
    [site] = surgery.find_sites(build(), torch.rand(2, 3, 4, 4))
    assert (site.channels, site.channels_vary) == (channels, False)


@pytest.mark.parametrize("way", FREE)
def test_channels_that_the_example_decides(way: str) -> None:
    build, channels = FREE[way]
    [site] = surgery.find_sites(build(), torch.rand(2, 3, 4, 4))
    assert (site.channels, site.channels_vary) == (channels, True)


@pytest.mark.parametrize("kind", [models.TinyVit, models.ShuffleNet, models.SqueezeExciteNet, models.LinearAttention])
def test_tokens_groups_and_scales_have_channels_that_the_network_fixes(kind: type[models.Stated]) -> None:
    sites = surgery.find_sites(kind(), kind.example)
    assert sites.items and not any(site.channels_vary for site in sites)
