"""Operators: the table of the paper, and every derivative in it."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.activations.expressions.operators import BINARY, EPSILON, OPERATORS, UNARY

POINTS = torch.tensor([-3.1, -0.6, -0.004, 0.003, 0.7, 2.4], dtype=torch.float64)


def test_the_table_is_that_of_the_paper() -> None:
    assert (len(UNARY), len(BINARY)) == (25, 10)
    assert [name for name in OPERATORS if OPERATORS[name].has_beta] == ["scale", "shift", "beta", "bump", "peak", "mix"]


@pytest.mark.parametrize("name", OPERATORS)
def test_slopes_are_the_derivatives(name: str) -> None:
    operator = OPERATORS[name]
    args = [shift + POINTS.roll(shift) for shift in range(operator.arity + operator.has_beta)]
    inputs = [arg.clone().requires_grad_() for arg in args]
    wanted = torch.autograd.grad(operator.value(*inputs).sum(), inputs)
    for slope, derivative in zip(operator.slopes(*args), wanted, strict=True):
        assert torch.allclose(torch.as_tensor(slope).to(POINTS).expand_as(POINTS), derivative, rtol=1e-6, atol=1e-8)


def test_values_at_known_points() -> None:
    one, two = torch.ones((), dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    known = {
        "cube": (two, 8), "sqrt": (-two, math.sqrt(EPSILON)), "log": (0 * one, math.log(EPSILON)),
        "sinc": (0 * one, 1), "min0": (two, 0), "gauss": (one, math.exp(-1)), "asinh": (one, math.asinh(1)),
    }  # fmt: skip
    for name, (x, value) in known.items():
        assert OPERATORS[name].value(x).item() == pytest.approx(value, abs=1e-12), name
    known_pairs = {"gate": 1 / (1 + math.exp(-2)), "div": 2 / (1 + EPSILON), "min": 1.0, "sub": 1.0}
    for name, value in known_pairs.items():
        assert OPERATORS[name].value(two, one).item() == pytest.approx(value), name
    for name, value in {"bump": math.exp(-3), "peak": math.exp(-3), "mix": 4.0}.items():
        assert OPERATORS[name].value(two, one, 3 * one).item() == pytest.approx(value), name
