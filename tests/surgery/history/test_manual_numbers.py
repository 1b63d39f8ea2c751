"""Integers that a user sets on layers are distinguished from those of a step, and set only where they exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import BadFile, WrongModel
from surgery.history.manual_numbers import check_numbers, numbers_of, set_since
from tests.asserts import assert_raises
from tests.models import Encoder, ResidualNet, picture


def test_only_whole_numbers_of_layers_count() -> None:
    assert numbers_of(nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.Softplus(2))) == {
        "0": {"in_features": 4, "out_features": 3}
    }


def test_what_others_set_since_a_step_is_found() -> None:
    model: Any
    model, _ = surgery.transform(ResidualNet(), surgery.swap("prelu", activation="relu"), picture())
    (step,) = surgery.history_of(model)
    assert set_since(model, step) == {}
    model.fc.out_features = 9
    model.layer1[0].conv1.new = 1  # was not there: no number that a fresh model has
    assert set_since(model, step) == {"fc": {"out_features": 9}}


def test_what_a_later_edit_writes_is_not_set_by_hand() -> None:
    model = Encoder()
    surgery.transform_(model, surgery.swap("prelu", activation="gelu"), Encoder.example)
    (step,) = surgery.history_of(model)
    assert any(change.what == "attribute" for change in step.changes)
    step.numbers = numbers_of(Encoder())
    assert set_since(model, step) == {}


@pytest.mark.parametrize("numbers", [3, {"0": 3}, {"0": {"in_features": True}}, {"0": {"in_features": "4"}}])
def test_what_is_no_number_is_refused(numbers: Any) -> None:
    assert_raises(BadFile, lambda: check_numbers(nn.Sequential(nn.Linear(4, 3)), numbers), "other than integers")


@pytest.mark.parametrize("numbers", [{"1": {"in_features": 3}}, {"0": {"forward": 3}}, {"0": {"_version": 3}}])
def test_what_a_layer_does_not_have_is_refused(numbers: Any) -> None:
    words = "integers set on layers", next(iter(numbers)) + "."
    assert_raises(WrongModel, lambda: check_numbers(nn.Sequential(nn.Linear(4, 3)), numbers), *words)
    assert check_numbers(nn.Sequential(nn.Linear(4, 3)), {"0": {"in_features": 2}}) == {"0": {"in_features": 2}}


def test_looking_for_numbers_moves_nothing() -> None:
    model = nn.Linear(4, 3)
    numbers_of(model)[""]["in_features"] = 7
    assert model.in_features == 4 and torch.is_tensor(model(torch.ones(1, 4)))


@pytest.mark.parametrize("number", [10**12, -(10**12)])
def test_a_number_beyond_every_size_in_the_model_is_refused(number: int) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    assert_raises(BadFile, lambda: check_numbers(model, {"0": {"in_features": number}}), "at most 15")
    assert check_numbers(model, {"0": {"in_features": 15}}) == {"0": {"in_features": 15}}
