"""Swish: the limits of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from surgery import activations
from surgery.activations.functions.swish import Swish
from tests.surgery.activations.functions.line import LINE, STEP, derivative


@pytest.mark.parametrize("beta", [1.0, 4.0, 16.0, 64.0])
def test_swish_is_relu_as_beta_grows(beta: float) -> None:
    error = (Swish(beta=beta)(LINE) - F.relu(LINE)).abs().max().item()
    assert math.isclose(error, 0.27846 / beta, rel_tol=1e-2 if beta == 64 else 1e-4)


def test_swish_between_its_ends() -> None:
    assert torch.allclose(Swish()(LINE), F.silu(LINE), rtol=0, atol=1e-15)
    assert torch.equal(Swish(beta=0)(LINE), LINE / 2)
    swish = Swish()(LINE)
    assert math.isclose(swish.min().item(), -0.27846, abs_tol=1e-5)
    assert math.isclose(LINE[swish.argmin()].item(), -1.278, abs_tol=STEP)
    slope = derivative(Swish())
    assert math.isclose(slope.min().item(), -0.0998, abs_tol=1e-4)
    assert math.isclose(slope.max().item(), 1.0998, abs_tol=1e-4)


def test_a_swish_of_fixed_beta_learns_nothing() -> None:
    for name in ("swish", "smelu", "gsmelu", "rescu"):
        assert not any(param.requires_grad for param in activations.build(name, 3, learn=False).parameters())
        assert all(param.requires_grad for param in activations.build(name, 3, learn=True).parameters())
