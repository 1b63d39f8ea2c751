"""SmeLU: the limits of the paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from surgery.activations.functions.smelu import SmeLU
from tests.surgery.activations.functions.line import LINE


@pytest.mark.parametrize("beta", [4.0, 1.0, 0.25, 2.0**-10])
def test_smelu_is_relu_within_a_quarter_of_beta(beta: float) -> None:
    smelu = SmeLU(beta=beta)
    error = (smelu(LINE) - F.relu(LINE)).abs()
    assert error.max() == beta / 4
    assert LINE[error.argmax()] == 0
    assert not error[LINE.abs() >= beta].any()


@given(st.floats(0.01, 4), st.floats(-6, 6))
def test_smelu_is_relu_averaged_over_a_box(beta: float, at: float) -> None:
    # The mean of ReLU over (x - beta, x + beta), by midpoints.
    points = 2000
    box = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * beta / points) - beta
    averaged = F.relu(at + box).mean()
    smooth = SmeLU(beta=beta).double()(torch.tensor([at], dtype=torch.float64)).item()
    assert abs(smooth - averaged.item()) < 1e-6 * (1 + beta)
