"""Prepare: the network fits the data, and what cannot work is refused before an image is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recipes.data import Data
from recipes.format.recipe import Recipe
from recipes.models.names import resolve
from recipes.runs.prepare import Prepared, check_purpose, prepare
from recipes.train.device import Place
from surgery import BadValue
from tests.asserts import assert_raises
from tests.recipes.runs.small import FADE, MODEL


def prepared(seed: int = 0, **options: Any) -> Prepared:
    given = {
        "pretrained": False, "data_dir": None, "img_size": None, "preprocessing": None, "train_num_samples": 96,
        "val_num_samples": 50, "workers": 0, "place": Place(torch.device("cpu")), "say": lambda _: None,
    }  # fmt: skip
    return prepare(FADE, resolve(MODEL), "digits", seed=seed, **{**given, **options})


def test_the_network_has_a_classifier_for_the_data_and_the_rules_of_the_model() -> None:
    made = prepared()
    assert made.kwargs == {"num_classes": 10} and made.name == MODEL and made.masks is None
    with torch.no_grad():
        assert made.network.eval()(torch.zeros(2, 3, made.data.size, made.data.size)).shape == (2, 10)
    assert made.rules == FADE.rules_for(MODEL)


def test_the_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (prepared(seed).network.state_dict()["conv1.0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_is_checked_before_an_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Data, "testing", None)
    monkeypatch.setattr(Data, "training", None)
    prepared()
    assert_raises(BadValue, lambda: prepared(place=Place(torch.device("cpu"), 0, 97)), "fewer images", "97 processes")


def test_a_recipe_needs_something_to_do() -> None:
    assert_raises(BadValue, lambda: check_purpose(Recipe("empty", ()), trained=True), "'empty' has nothing to do")
