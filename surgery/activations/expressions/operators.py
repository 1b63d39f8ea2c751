"""Operators: the closed table of unary and binary functions that expressions are made of, with their derivatives.

Source: Ramachandran, Zoph and Le 2017, "Searching for activation functions", arXiv 1710.05941, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5  # keeps roots, logarithms and quotients finite; the paper does not give its value


@dataclass(frozen=True, slots=True)
class Operator:
    """A function of `arity` tensors and, if `has_beta`, of a parameter beta behind them.

    `value(*args)` computes it; `slopes(*args)` are its derivatives by each of the arguments, beta included. `text` is
    its formula, with {a}, {b} and {beta} for them.
    """

    name: str
    arity: int
    text: str
    value: Callable[..., Tensor]
    slopes: Callable[..., tuple[Tensor | float, ...]]
    has_beta: bool = False


def _sinc_slope(x: Tensor) -> Tensor:
    """The derivative of sin(x) / x; near 0, where that formula cancels, its series."""
    near = x.abs() < 0.01
    safe = torch.where(near, 1.0, x)
    return torch.where(near, x * (x.square() / 30 - 1 / 3), (safe.cos() - safe.sin() / safe) / safe)


def _sinc(x: Tensor) -> Tensor:
    near = x.abs() < 0.01
    safe = torch.where(near, 1.0, x)
    return torch.where(near, 1 - x.square() / 6, safe.sin() / safe)


def _bump(x: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    return (-beta * (x - y).square()).exp()


def _bump_slopes(x: Tensor, y: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    value, apart = _bump(x, y, beta), x - y
    of_x = -2 * beta * apart * value
    return of_x, -of_x, -apart.square() * value


def _peak(x: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    return (-beta * (x - y).abs()).exp()


def _peak_slopes(x: Tensor, y: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    value, apart = _peak(x, y, beta), x - y
    of_x = -beta * apart.sign() * value
    return of_x, -of_x, -apart.abs() * value


def _gate_slopes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    gate = torch.sigmoid(x)
    return gate * (1 - gate) * y, gate


def _larger(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Which of two is the larger, as 1 and 0; one half each where they are equal, as in torch."""
    first = torch.where(x == y, 0.5, (x > y).to(x.dtype))
    return first, 1 - first


_ROOT_PI = 2 / math.sqrt(math.pi)

_UNARY = (
    Operator("neg", 1, "-{a}", lambda x: -x, lambda x: (-1.0,)),
    Operator("abs", 1, "|{a}|", lambda x: x.abs(), lambda x: (x.sign(),)),
    Operator("square", 1, "{a}^2", lambda x: x.square(), lambda x: (2 * x,)),
    Operator("cube", 1, "{a}^3", lambda x: x * x.square(), lambda x: (3 * x.square(),)),
    Operator(
        "sqrt", 1, "sqrt(max({a}, 0))", lambda x: x.clamp_min(EPSILON).sqrt(),
        lambda x: (torch.where(x > EPSILON, 0.5 * x.clamp_min(EPSILON).rsqrt(), 0.0),),
    ),
    Operator("scale", 1, "{beta} {a}", lambda x, beta: beta * x, lambda x, beta: (beta, x), has_beta=True),
    Operator("shift", 1, "({a} + {beta})", lambda x, beta: x + beta, lambda x, beta: (1.0, 1.0), has_beta=True),
    Operator(
        "log", 1, "log(|{a}| + epsilon)", lambda x: (x.abs() + EPSILON).log(),
        lambda x: (x.sign() / (x.abs() + EPSILON),),
    ),
    Operator("exp", 1, "exp({a})", lambda x: x.exp(), lambda x: (x.exp(),)),
    Operator("sin", 1, "sin({a})", lambda x: x.sin(), lambda x: (x.cos(),)),
    Operator("cos", 1, "cos({a})", lambda x: x.cos(), lambda x: (-x.sin(),)),
    Operator("sinh", 1, "sinh({a})", lambda x: x.sinh(), lambda x: (x.cosh(),)),
    Operator("cosh", 1, "cosh({a})", lambda x: x.cosh(), lambda x: (x.sinh(),)),
    Operator("tanh", 1, "tanh({a})", lambda x: x.tanh(), lambda x: (1 - x.tanh().square(),)),
    Operator("asinh", 1, "asinh({a})", lambda x: x.asinh(), lambda x: ((x.square() + 1).rsqrt(),)),
    Operator("atan", 1, "atan({a})", lambda x: x.atan(), lambda x: (1 / (x.square() + 1),)),
    Operator("sinc", 1, "sin({a}) / {a}", _sinc, lambda x: (_sinc_slope(x),)),
    Operator("relu", 1, "max({a}, 0)", lambda x: F.relu(x), lambda x: ((x > 0).to(x.dtype),)),
    Operator("min0", 1, "min({a}, 0)", lambda x: -F.relu(-x), lambda x: ((x < 0).to(x.dtype),)),
    Operator(
        "sigmoid", 1, "sigmoid({a})", lambda x: x.sigmoid(), lambda x: (x.sigmoid() * (-x).sigmoid(),)
    ),
    Operator("softplus", 1, "log(1 + exp({a}))", lambda x: F.softplus(x), lambda x: (x.sigmoid(),)),
    Operator(
        "gauss", 1, "exp(-{a}^2)", lambda x: (-x.square()).exp(), lambda x: (-2 * x * (-x.square()).exp(),)
    ),
    Operator("erf", 1, "erf({a})", lambda x: x.erf(), lambda x: (_ROOT_PI * (-x.square()).exp(),)),
)  # fmt: skip

# A constant: the paper counts it among the unary functions.
_CONSTANT = Operator("beta", 0, "{beta}", lambda beta: beta, lambda beta: (1.0,), has_beta=True)

_BINARY = (
    Operator("add", 2, "({a} + {b})", lambda x, y: x + y, lambda x, y: (1.0, 1.0)),
    Operator("mul", 2, "{a} {b}", lambda x, y: x * y, lambda x, y: (y, x)),
    Operator("sub", 2, "({a} - {b})", lambda x, y: x - y, lambda x, y: (1.0, -1.0)),
    Operator(
        "div", 2, "{a} / ({b} + epsilon)", lambda x, y: x / (y + EPSILON),
        lambda x, y: (1 / (y + EPSILON), -x / (y + EPSILON).square()),
    ),
    Operator("max", 2, "max({a}, {b})", torch.maximum, lambda x, y: _larger(x, y)),
    Operator("min", 2, "min({a}, {b})", torch.minimum, lambda x, y: _larger(y, x)),
    Operator("gate", 2, "sigmoid({a}) {b}", lambda x, y: x.sigmoid() * y, _gate_slopes),
    Operator("bump", 2, "exp(-{beta} ({a} - {b})^2)", _bump, _bump_slopes, has_beta=True),
    Operator("peak", 2, "exp(-{beta} |{a} - {b}|)", _peak, _peak_slopes, has_beta=True),
    Operator(
        "mix", 2, "({beta} {a} + (1 - {beta}) {b})", lambda x, y, beta: beta * x + (1 - beta) * y,
        lambda x, y, beta: (beta, 1 - beta, x - y), has_beta=True,
    ),
)  # fmt: skip

OPERATORS: Mapping[str, Operator] = MappingProxyType({row.name: row for row in (*_UNARY, _CONSTANT, *_BINARY)})

INPUT = "x"  # the leaf, and the identity among the unary functions
UNARY = (INPUT, *(row.name for row in _UNARY), _CONSTANT.name)
BINARY = tuple(row.name for row in _BINARY)
