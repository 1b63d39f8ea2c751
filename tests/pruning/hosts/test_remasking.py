"""Remasking: exactly so many weights are cut, in the library's masks alone, and a bad count changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.hosts.remasking import RemaskingHost, and_in, checked_count
from pruning.rounds.round import snapshot
from surgery.errors import BadValue, NothingPicked
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.tiny import tiny_net


@pytest.mark.parametrize("count", [True, -1, 1.0, "3", None], ids=repr)
def test_what_is_no_count_is_refused(count: object) -> None:
    assert_raises(BadValue, lambda: checked_count(count), f"count={count!r}", "0 or more")  # type: ignore[arg-type]


def test_a_count_is_itself() -> None:
    assert checked_count(0) == 0 and checked_count(7) == 7


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16], ids=str)
def test_a_mask_of_any_type_loses_what_is_pruned(dtype: torch.dtype) -> None:
    held = torch.tensor([1, 1, 0, 0]).to(dtype)
    and_in(held, torch.tensor([True, False, True, False]))
    assert held.tolist() == torch.tensor([1, 0, 0, 0]).to(dtype).tolist() and held.dtype is dtype


def test_a_weight_that_requires_gradients_is_written_without_one() -> None:
    weight = nn.Parameter(torch.ones(3))
    and_in(weight, torch.tensor([True, False, True]))
    assert weight.tolist() == [1.0, 0.0, 1.0] and weight.requires_grad and weight.is_leaf


def test_exactly_so_many_are_cut_where_the_library_masks() -> None:
    model = tiny_net()
    before = snapshot(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)  # towards zero
    held = {"4.weight": torch.ones_like(model.get_parameter("4.weight"))}
    masks = RemaskingHost(lambda _: held).cut(model, before, 3, "any", "magnitude")
    assert int((~masks["4.weight"]).sum()) == int((held["4.weight"] == 0).sum()) == 3
    assert list(masks) == ["4.weight"]


def test_where_the_library_masks_nothing_there_is_nothing_to_cut() -> None:
    model = tiny_net()
    with assert_untouched(model):
        assert_raises(NothingPicked, lambda: RemaskingHost(lambda _: {}).cut(model, snapshot(model), 1))
