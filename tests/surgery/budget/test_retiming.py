"""Retiming: edited networks as a whole, each timed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import surgery
from surgery.budget import retiming
from surgery.budget.journal import Journal
from surgery.budget.retiming import Retiming
from surgery.cost.conditions import Conditions
from tests.surgery.budget.networks import images, small_net
from tests.surgery.budget.test_front import DROP, STEM


def fresh(path: Path, dtype: torch.dtype = torch.float32) -> Retiming:
    model = small_net()
    conditions = Conditions.here("eager", "contiguous", dtype, 2, torch.device("cpu"))
    return Retiming(model, surgery.find_sites(model, images(2)), conditions, Journal(path, {}))


def test_a_set_of_actions_is_timed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retiming, "ROUNDS", 2)
    first = fresh(tmp_path / "journal.json")
    assert not first.known([STEM, DROP])
    speedup = first.speedup([STEM, DROP])
    again = fresh(tmp_path / "journal.json")
    monkeypatch.setattr(again, "_measured", None)
    assert speedup > 0 and again.known([DROP, STEM]) and again.speedup([DROP, STEM]) == speedup
    assert not fresh(tmp_path / "journal.json", torch.float64).known([STEM, DROP])


def test_the_unedited_network_is_as_fast_as_itself(tmp_path: Path) -> None:
    assert fresh(tmp_path / "journal.json").speedup([]) == 1.0
