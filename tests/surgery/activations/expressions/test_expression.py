"""Expression: a frozen tree checks itself, prints itself, and has the gradients of its parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from surgery.activations.expressions.expression import Expression, X
from surgery.activations.expressions.notation import parse
from surgery.errors import BadValue, UnknownName
from tests.asserts import assert_raises
from tests.surgery.activations.expressions.one_core import ONE_CORE, unary

POINTS = torch.tensor([-2.1, -0.7, -0.3, 0.4, 1.3, 2.7], dtype=torch.float64)
SWISH = Expression("mul", (X, Expression("sigmoid", (Expression("scale", (X,), 0.5),))))


def test_it_prints_what_it_is() -> None:
    assert str(SWISH) == "mul(x, sigmoid(scale(x, 0.5)))"
    assert SWISH.formula == "x sigmoid(beta x)"
    assert (SWISH.size, SWISH.depth, SWISH.betas) == (3, 3, (0.5,))
    assert str(Expression("scale", (X,))) == "scale(x)", "a beta of 1 is the default"
    assert str(X) == X.formula == "x"
    assert parse("mix(scale(x, 2), x, 0.3)").formula == "(beta2 beta1 x + (1 - beta2) x)"


def test_its_value_is_that_of_its_parts() -> None:
    assert torch.allclose(SWISH.value(POINTS), POINTS * torch.sigmoid(0.5 * POINTS), rtol=1e-15)
    assert torch.allclose(SWISH.value(POINTS, 1.0), F.silu(POINTS), rtol=1e-15)
    assert torch.equal(Expression("beta", beta=3).value(POINTS), torch.full_like(POINTS, 3)), "a constant is spread"
    assert torch.equal(parse("mix(scale(x, 2), x, 0.3)").value(POINTS, 5.0, 0.0), POINTS), "betas in order of print"


def test_gradients_of_one_core_are_those_of_autograd() -> None:
    grad = torch.arange(1, 7).to(POINTS)
    swept = [*ONE_CORE[::7], *(Expression("gate", (unary("tanh", core), unary("sin"))) for core in ONE_CORE[::501])]
    for expression in swept:
        betas = [torch.tensor(0.7 + 0.2 * k, dtype=torch.float64) for k in range(len(expression.betas))]
        inputs = [tensor.clone().requires_grad_() for tensor in (POINTS, *betas)]
        value = expression.value(*inputs)
        wanted = torch.autograd.grad(value, inputs, grad, materialize_grads=True, allow_unused=True)
        found = expression.gradients(grad, POINTS, *betas)
        for got, derivative in zip(found, wanted, strict=True):
            got = got.sum() if derivative.dim() == 0 else got
            assert torch.allclose(got, derivative, rtol=1e-9, atol=1e-9), str(expression)
    assert len(swept) == 893 + 13


def test_what_is_no_expression_is_refused() -> None:
    assert_raises(UnknownName, lambda: Expression("sinn", (X,)), "sin")
    assert_raises(BadValue, lambda: Expression("mul", (X,)), "2 arguments")
    assert_raises(BadValue, lambda: Expression("x", (X,)), "0 arguments")
    assert_raises(BadValue, lambda: Expression("sin", (X,), 2.0), "'sin' has no parameter")
    assert_raises(BadValue, lambda: Expression("scale", (X,), float("inf")), "finite")
    with pytest.raises(BadValue, match="too deep"):
        deep = X
        for _ in range(17):
            deep = Expression("sin", (deep,))
