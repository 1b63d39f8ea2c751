"""Moved padding: all on the first convolution, shapes unchanged, and mergeable afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import UnknownName
from surgery.merging.merged_model import merge
from surgery.merging.padding import Paddings, moved_padding
from tests.models import randomise
from tests.surgery.merging.networks import Inverted, Residual

X = torch.randn(2, 8, 11, 12, dtype=torch.float64)


def erased(*blocks: nn.Module, site: str = "*act1", padded: int = 0) -> nn.Module:
    model = randomise(nn.Sequential(*blocks)).eval().double()
    return surgery.transform(model, surgery.erase(activation="*", site=site, stand_in="affine"), X)[0]


def apply(model: nn.Module, paddings: Paddings) -> None:
    for path, padding in paddings.items():
        model.get_submodule(path).padding = padding  # type: ignore[assignment]


@pytest.mark.parametrize(("stride", "skip"), [(1, "identity"), (1, "projection"), (2, "projection")])
def test_a_residual_block_is_mergeable_afterwards(stride: int, skip: str) -> None:
    model = erased(Residual(8, 8, stride, skip, moved=False))
    shape = model(X).shape
    paddings = moved_padding(model, X)
    assert paddings == {"0.conv1": (1 + stride,) * 2, "0.conv2": (0, 0)}
    assert all(group.reason for group in surgery.linear_groups(model, X) if group.kind == "block")
    apply(model, paddings)
    assert model(X).shape == shape and moved_padding(model, X) == {}
    merged, report = merge(model, example=X)
    assert [row.group.kind for row in report.merged] == ["block"]
    torch.testing.assert_close(merged(X), model(X), rtol=1e-12, atol=1e-12)


def test_the_strides_before_it_multiply_the_padding() -> None:
    layers = [nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, (3, 1), 2, (1, 0)), nn.ReLU(),
              nn.Conv2d(8, 8, 3, 1, 1)]  # fmt: skip
    model = erased(*layers, site="*")
    paddings = moved_padding(model, X)
    assert paddings == {"0": (1 + 2 + 4, 1 + 4), "2": (0, 0), "4": (0, 0)}
    shape = model(X).shape
    apply(model, paddings)
    assert model(X).shape == shape and len(merge(model, example=X)[1].merged) == 1


def test_an_inverted_residual_pads_in_its_expansion() -> None:
    block = Inverted(8, 16)
    block.conv_pw.padding, block.conv_dw.padding = (0, 0), (1, 1)
    model = erased(block, site="*bn?.act")
    assert moved_padding(model, X) == {"0.conv_pw": (1, 1), "0.conv_dw": (0, 0)}


def test_blocks_are_chosen_by_their_paths() -> None:
    model = erased(Residual(8, 8, moved=False), Residual(8, 8, moved=False))
    assert set(moved_padding(model, X, blocks=["1"])) == {"1.conv1", "1.conv2"}
    assert moved_padding(model, X, blocks=[]) == {}
    with pytest.raises(UnknownName, match="Sequential has no module 3"):
        moved_padding(model, X, blocks=["3"])


def test_padding_stays_where_nothing_was_erased_or_it_is_not_of_zeros() -> None:
    kept = nn.Sequential(Residual(8, 8, moved=False)).double()
    assert moved_padding(kept, X) == {}
    assert moved_padding(erased(Residual(8, 8, moved=False, mode="reflect")), X) == {}
