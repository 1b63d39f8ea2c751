"""A fade: one function at the beginning, another at the end, and the weighted mean of both in between."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.activations.functions.fade import Fade

X = torch.linspace(-2, 2, 9)


@given(st.floats(0, 1))
@settings(max_examples=30)
def test_in_between_it_is_the_weighted_mean(progress: float) -> None:
    fade = Fade(nn.ReLU(), nn.Identity())
    fade.set_progress(progress)
    assert torch.allclose(fade(X), (1 - progress) * X.relu() + progress * X, atol=1e-6)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.25), (0.4, 0.5), (0.6, 1.0), (1.0, 1.0)]
)
def test_it_fades_over_its_part_of_the_progress(progress: float, share: float) -> None:
    fade = Fade(nn.ReLU(), nn.Identity(), over=(0.2, 0.6))
    fade.set_progress(progress)
    assert float(fade.progress) == pytest.approx(share)


def test_at_both_ends_only_one_function_counts() -> None:
    infinite = torch.tensor([float("-inf"), float("inf")])
    fade = Fade(nn.ReLU(), nn.Identity())
    assert fade(infinite).tolist() == [0.0, float("inf")]
    fade.set_progress(1.0)
    assert torch.equal(fade(infinite), infinite)


def test_progress_is_no_part_of_the_state_dict_and_the_end_remains() -> None:
    fade = Fade(nn.PReLU(), end := nn.PReLU())
    assert list(fade.state_dict()) == ["start.weight", "end.weight"]
    assert fade.settled() is end


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_is_that_of_the_input(dtype: torch.dtype) -> None:
    fade = Fade(nn.ReLU(), nn.Identity())
    fade.set_progress(0.5)
    assert fade(X.to(dtype)).dtype is dtype
