"""Devices: one process trains on what is asked for, several on their own ranks, and others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.train.device import Place, place_of
from surgery.errors import BadValue
from tests.asserts import assert_raises
from tests.processes import in_two


def test_one_process_is_the_first_of_one() -> None:
    assert place_of("cpu") == Place(torch.device("cpu"), rank=0, world=1)
    assert place_of("cpu").first


def test_without_cuda_the_default_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place_of().device.type == "cpu"


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99"])
def test_a_device_that_nobody_can_train_on_is_refused(device: str) -> None:
    assert_raises(BadValue, lambda: place_of(device), repr(device), "cpu", "--device cpu")


def find_place(rank: int, home: Path) -> None:
    assert place_of("cpu") == Place(torch.device("cpu"), rank, 2)
    assert place_of("cpu").first is (rank == 0)
    (home / str(rank)).touch()


def test_each_of_two_processes_has_its_rank(tmp_path: Path) -> None:
    in_two(find_place, tmp_path)
    assert {"0", "1"} <= {path.name for path in tmp_path.iterdir()}
