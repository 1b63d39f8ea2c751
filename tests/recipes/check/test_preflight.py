"""Preflight: what can be known is refused before the first image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from recipes.check.preflight import check_before
from recipes.data import Data, Pictures, Preprocessing
from recipes.data.dataset import InMemory
from recipes.data.feed import ImageTransform
from recipes.format.recipe import Recipe
from surgery.errors import BadValue, CannotLook, SurgeryError
from tests.asserts import assert_raises
from tests.recipes.runs.small import FADE, SHORT, small_run

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")


@pytest.mark.parametrize(
    "change, options, says",
    [
        ({"batch_size": 1}, {}, ("one image at a time", "more than 1 value", "--batch-size")),
        ({}, {"train_num_samples": 1}, ("one image at a time", "more than 1 value")),
        ({"mixup": 0.2}, {"train_num_samples": 5}, ("even number", "batches of 5")),
        ({"sched": "step", "decay_epochs": 0.0}, {}, ("decay_epochs=0",)),
    ],
)
def test_what_can_be_known_is_refused_before_the_first_image(
    change: dict[str, Any], options: dict[str, Any], says: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Data, "testing", None)  # nothing is read
    recipe = replace(FADE, finetune=replace(SHORT, **change))
    assert_raises(BadValue, lambda: small_run(recipe, tmp_path / "out", **options), *says)
    assert not (tmp_path / "out").exists()


def test_rules_are_planned_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Data, "testing", None)
    recipe = replace(FADE, rules=(surgery.swap("prelu", block="nowhere"),))
    assert_raises(SurgeryError, lambda: small_run(recipe, tmp_path / "out"), "nowhere")


def test_one_class_and_no_images_are_refused() -> None:
    pictures = Pictures(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    network = torch.nn.Linear(1, 1)
    for classes, train, test, says in (
        (("ant",), 4, 4, "at least two classes"), (("ant", "bee"), 0, 4, "o images to train on"),
        (("ant", "bee"), 4, 0, "o images to test on"),
    ):  # fmt: skip
        source = InMemory(pictures.first(train), pictures.first(test), ImageTransform(8))
        data = Data("mine", classes, Preprocessing(size=8), source)
        assert_raises(BadValue, lambda data=data: check_before(FADE, (), network, data, 1), says)  # type: ignore[misc]


class Picky(torch.nn.Module):
    """Raises an error of this library when run; `copies` are the devices on which it can be copied."""

    def __init__(self, copies: tuple[str, ...] = ("cpu", "meta")) -> None:
        super().__init__()
        self.fc, self.copies = torch.nn.Linear(192, 2), copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Picky:
        if torch.get_default_device().type not in self.copies:
            raise RuntimeError("no copy here")
        made = Picky(self.copies)
        memo[id(self)] = made
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 8:
            raise CannotLook("Pictures have 8 pixels a side.")
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("copies", [("cpu", "meta"), ("cpu",), ()])
def test_a_network_is_tried_wherever_it_can_be_copied(copies: tuple[str, ...]) -> None:
    recipe = Recipe("none", (), finetune=replace(SHORT, epochs=0))

    def checked(size: int) -> None:
        pictures = Pictures(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
        data = Data(
            "mine", ("ant", "bee"), Preprocessing(size=size), InMemory(pictures, pictures, ImageTransform(size))
        )
        check_before(recipe, (), Picky(copies), data, 1)

    checked(8)
    if copies:
        assert_raises(CannotLook, lambda: checked(9), "does not run on images of 9 pixels", "have 8 pixels a side")
    else:
        checked(9)  # its first batch will tell


class Maps(nn.Module):
    """A network for segmentation: scores of classes for every pixel."""

    def __init__(self, boxed: bool = False) -> None:
        super().__init__()
        self.conv, self.boxed = nn.Conv2d(3, 2, 1), boxed

    def forward(self, images: torch.Tensor) -> Any:
        return {"out": self.conv(images)} if self.boxed else self.conv(images)


@pytest.mark.parametrize(("boxed", "found"), [(False, r"a tensor \(2, 2, 8, 8\)"), (True, "a dict")])
def test_a_network_that_is_no_classifier_is_refused_in_a_line(boxed: bool, found: str) -> None:
    pictures = Pictures(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    data = Data("mine", ("ant", "bee"), Preprocessing(size=8), InMemory(pictures, pictures, ImageTransform(8)))
    with pytest.raises(BadValue, match=rf"Maps is not a classifier of 2 classes(?s:.*){found} for two images"):
        check_before(FADE, (), Maps(boxed), data, 1)
