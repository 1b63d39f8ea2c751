"""Questions to a model, which do not change it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from surgery.errors import CannotLook
from surgery.model import check_plain, dtype_of, home_of, in_eval, in_mode, parents_of
from tests.asserts import assert_raises


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        (lambda: nn.DataParallel(nn.Linear(2, 2)), ["DataParallel", "model.module"]),
        (lambda: nn.Sequential(torch.jit.script(nn.ReLU())), ["0 of the model", "script"]),
        (lambda: torch.compile(nn.ReLU()), ["OptimizedModule", "_orig_mod"]),
        (lambda: torch.relu, ["not a model", "torch.nn.Module"]),
    ],
    ids=["parallel", "scripted child", "compiled", "function"],
)
def test_a_wrapped_model_is_refused_with_the_cure(wrapped: Any, words: list[str]) -> None:
    check_plain(nn.Sequential(nn.ReLU()))
    assert_raises(CannotLook, lambda: check_plain(wrapped()), *words)


def test_where_a_model_lives_and_in_what_numbers() -> None:
    assert (home_of(nn.Linear(2, 2, device="meta")).type, home_of(nn.ReLU()).type) == ("meta", "cpu")
    counted = nn.BatchNorm1d(2, affine=False)
    assert home_of(counted.to("meta")).type == "meta", "buffers count"
    assert dtype_of(nn.Linear(2, 2).half()) is torch.float16 and dtype_of(nn.ReLU()) is None


def test_modes_gradients_and_random_numbers_come_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval()).train()
    model[1].eval()
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), in_eval(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        torch.rand(3)
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), before)


def test_a_mode_is_set_where_train_returns_nothing() -> None:
    class Silent(nn.Module):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    model = Silent()
    assert in_mode(model, "eval") is model and not model.training
    assert in_mode(model, "train").training


def test_the_paths_around_a_path() -> None:
    assert parents_of("layer1.0.conv") == ["layer1.0", "layer1", ""]
    assert parents_of("fc") == [""] and parents_of("") == []
