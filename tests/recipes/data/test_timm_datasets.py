"""Data sets that timm opens: torchvision's sets, streams, and what cannot be opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm.data.dataset_factory
import torch
from PIL import Image
from timm.data import IterableImageDataset

from recipes.data import open_data
from recipes.data.timm_datasets import Streamed
from recipes.format.settings import Finetune
from surgery.errors import BadFile, SurgeryError, UnknownName
from tests.asserts import assert_raises
from tests.recipes.data.pictures import greys, labels_of


def test_torchvision_sets_through_timm(folder: Path) -> None:
    data = open_data("torch/folder", data_dir=folder, size=16, workers=0, val_num_samples=3)
    assert (data.name, data.classes, data.size) == ("torch/folder", ("ant", "bee"), 16)
    assert sum(len(labels) for _, labels in data.testing()) == 3
    assert labels_of(data.training(Finetune(batch_size=8)), 0).count(1) == 4
    assert open_data("torch/folder", data_dir=folder).size == 224


def test_sets_that_timm_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_raises(UnknownName, lambda: open_data("torch/mnits", data_dir=tmp_path), "torch/mnits", "mnits")
    assert_raises(UnknownName, lambda: open_data("torch/cifar10", data_dir=tmp_path), "split train", "not found")

    def lacking(*asked: object, **settings: object) -> None:
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr(timm.data.dataset_factory, "create_dataset", lacking)
    assert_raises(SurgeryError, lambda: open_data("hfds/cifar10"), "needs datasets", "pip install datasets")


class Reader:
    """A stream as timm reads it: grey images 0, 1, 2 ... of two classes."""

    def __init__(self, split: str, count: int, class_to_idx: dict[str, int]) -> None:
        self.split = split
        self.count = count
        self.class_to_idx = class_to_idx
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for index in range(self.count):
            yield Image.new("RGB", (20, 20), (10 * index + self.epoch,) * 3), index % 2

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, count: int) -> None:
        self.epoch = count


def streams(monkeypatch: pytest.MonkeyPatch, class_to_idx: dict[str, int]) -> list[dict[str, object]]:
    """Let timm's `create_dataset` return streams, without a validation split; returns its calls."""
    calls: list[dict[str, object]] = []

    def create_dataset(name: str, root: str | None, split: str, **settings: object) -> IterableImageDataset:
        calls.append({"name": name, "root": root, "split": split, **settings})
        if split == "validation":
            raise ValueError('Unknown split "validation".')
        return IterableImageDataset(None, reader=Reader(split, 7, class_to_idx))

    monkeypatch.setattr(timm.data.dataset_factory, "create_dataset", create_dataset)
    return calls


def test_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = streams(monkeypatch, {"odd": 1, "even": 0})
    data = open_data("tfds/mine", data_dir="somewhere", size=16, workers=0)
    assert isinstance(data.source, Streamed) and data.classes == ("even", "odd")
    fed = data.training(Finetune(batch_size=2, hflip=0.0), seed=3)
    assert calls[-1] == {
        "name": "tfds/mine", "root": "somewhere", "split": "train", "is_training": True, "batch_size": 2, "seed": 3,
    }  # fmt: skip
    assert fed.steps == 3
    assert [labels.tolist() for _, labels in fed.epoch(0)] == [[0, 1]] * 3
    assert [labels.tolist() for _, labels in fed.epoch(1, start=1)] == [[0, 1]] * 2
    assert max(greys(next(fed.epoch(0))[0])) < 20 < 50 < min(greys(next(fed.epoch(100))[0])), "it gets the epoch"
    for _ in range(2):
        images, labels = (torch.cat(part) for part in zip(*data.testing(4), strict=True))
        assert greys(images) == [10 * index for index in range(7)] and labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert calls[-1]["split"] == "test"


def test_samples_of_streams_and_streams_without_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    streams(monkeypatch, {"odd": 1, "even": 0})
    data = open_data("hfids/mine", size=16, workers=0, train_num_samples=4, val_num_samples=4)
    assert data.training(Finetune(batch_size=2)).steps == 2 and data.training(Finetune(batch_size=5)).steps == 1
    assert sum(len(labels) for _, labels in data.testing(2)) == 4
    streams(monkeypatch, {})
    assert_raises(BadFile, lambda: open_data("wds/mine"), "does not name its classes")
