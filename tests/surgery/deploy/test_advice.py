"""What a function is swapped for: the nearest that the target has as one operator, where there is need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from surgery.activations.support import Cell, Support
from surgery.deploy import advice
from surgery.deploy.probe import Probed
from tests.surgery.small_net import SmallNet

CELLS = [("relu", "one operator"), ("silu", "one operator"), ("gelu", "one operator"), ("mish", "fails")]
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tuple(Cell(name, "memory", "fp32", "image", verdict, (), 0.0, "") for name, verdict in CELLS)
    monkeypatch.setattr(advice, "support", lambda: Support(cells, {"memory": ""}))


def instead(function: nn.Module, probed: Probed) -> str:
    site = surgery.find_sites(SmallNet(), torch.randn(2, 3, 8, 8))[0]
    return advice.instead_of(function, site, probed, X, "memory")


def test_the_nearest_function_is_proposed() -> None:
    assert instead(surgery.activations.build("quick_gelu"), Probed(problem="no sigmoid")) == "gelu"
    assert instead(nn.Mish(), Probed(tuple("abcde"), 0.0)) == "silu"
    assert instead(nn.ReLU(), Probed(("a",), 0.5)) == "gelu"  # not itself


def test_nothing_is_proposed_where_the_function_is_well_off() -> None:
    assert instead(nn.Mish(), Probed(("mish",), 0.0)) == ""
    assert instead(nn.Mish(), Probed(tuple("abcd"), 0.0)) == ""


def test_candidates_have_the_role_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("relu", "helu", "pwlu", "sigmoid", "hardsigmoid")
    cells = tuple(Cell(name, "memory", "fp32", "image", "one operator", ("op",), 0.0, "") for name in names)
    monkeypatch.setattr(advice, "support", lambda: Support(cells, {"memory": ""}))
    gate, call = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), nn.Sequential(nn.Linear(2, 2), nn.GELU())
    found = [advice.candidates(surgery.find_sites(model, X[..., :2])[0], "memory") for model in (gate, call)]
    assert found == [["hardsigmoid"], ["relu"]]
