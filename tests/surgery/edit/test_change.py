"""Changes: what they record about the model they were made in."""

from __future__ import annotations

import torch
from torch import nn

from surgery.edit.change import Change, catch_up, check_ours
from surgery.errors import CannotEdit
from tests.asserts import assert_raises


def test_two_changes_of_one_slot() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    first, second, third = (
        Change("child", model, "0", None),
        Change("child", model, "0", None),
        Change("graph", model, "0", 1),
    )
    assert first.same_slot(second) and not first.same_slot(third)
    assert not first.same_slot(Change("child", model, "1", None))


def test_what_was_replaced_since_is_named() -> None:
    model = nn.Sequential(nn.Sequential(nn.GELU()))
    made = Change("child", model[0], "0", nn.ReLU(), model[0][0])
    check_ours(model, [made])
    model[0][0] = nn.SiLU()
    assert_raises(CannotEdit, lambda: check_ours(model, [made]), "0.0 is not the module", "SiLU", "GELU")


def test_modules_to_be_restored_follow_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2).double(), nn.GELU())
    old = nn.PReLU()
    catch_up([Change("child", model, "1", old, model[1])], torch.device("cpu"), torch.float64)
    assert old.weight.dtype == torch.float64
