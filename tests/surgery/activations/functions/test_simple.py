"""Simple functions: values of the papers."""

from __future__ import annotations

import math

import pytest
from torch import nn
from torch.nn import functional as F

from surgery.activations.functions.simple import QuickGELU
from tests.surgery.activations.functions.line import LINE, STEP, derivative


def test_gelu() -> None:
    gelu, slope = F.gelu(LINE), derivative(F.gelu)
    assert math.isclose(gelu.min().item(), -0.16997, abs_tol=1e-5)
    assert math.isclose(LINE[gelu.argmin()].item(), -0.7518, abs_tol=STEP)
    assert math.isclose(slope.max().item(), 1.1289, abs_tol=5e-5)
    assert math.isclose(LINE[slope.argmax()].item(), math.sqrt(2), abs_tol=STEP)
    assert math.isclose(slope.min().item(), 1 - slope.max().item(), abs_tol=1e-7)


@pytest.mark.parametrize(
    ("form", "error", "place"), [(nn.GELU(approximate="tanh"), 4.73e-4, 2.7), (QuickGELU(), 0.0203, 2.27)]
)
def test_forms_of_gelu(form: nn.Module, error: float, place: float) -> None:
    apart = (form(LINE) - F.gelu(LINE)).abs()
    assert math.isclose(apart.max().item(), error, rel_tol=5e-3)
    assert math.isclose(LINE[apart.argmax()].abs().item(), place, abs_tol=0.05)
