"""The study of found functions: which ones it takes, and that its arms compute what they are called."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from benchmarks.studies.found import ARMS, best_of


def test_the_best_of_the_brief_trainings_are_taken(tmp_path: Path) -> None:
    rows = [
        "function,epochs,seed,accuracy,reported",
        '"add(x, cos(x))",2,0,0.3,0',
        "relu(x),10,0,0.9,0",
        "sin(x),2,0,0.5,0",
        "abs(x),2,0,0.1,0",
    ]
    (tmp_path / "rows.csv").write_text("\n".join(rows), encoding="utf-8")
    assert best_of(tmp_path / "rows.csv", 2) == ["sin(x)", "add(x, cos(x))"]


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("mul(x, sigmoid(x))", lambda x: x * x.sigmoid()),
        ("max(tanh(x), x)", lambda x: torch.maximum(x.tanh(), x)),
    ],
)
def test_arms_compute_what_they_are_called(name: str, computed: Callable[[Tensor], Tensor]) -> None:
    x, rule = torch.linspace(-3, 3, 13)[None], ARMS[name].rule
    assert rule is not None
    model, _ = surgery.transform(nn.Sequential(nn.ReLU()), rule, x)
    torch.testing.assert_close(model(x), computed(x))
