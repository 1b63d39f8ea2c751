"""Equality: which expressions are the same function, and which are unfit as activations, by their values on a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from surgery.activations.expressions.expression import Expression

_RANGE, _POINTS = 5.0, 257
_LARGEST = 1e4  # a value above this explodes in the layers that follow
_CONSTANT = 1e-9  # the values of a constant differ by less
_DIGITS = 8  # decimals that equal functions share
# Other parameters at which functions that learn theirs are compared, beside their initial ones: functions that begin
# alike need not stay alike.
_OTHER_BETAS = ((0.37, 1.61, 0.83, 2.13), (1.79, 0.59, 2.41, 0.71))


def values(expression: Expression, betas: tuple[float, ...] = ()) -> Tensor:
    """Its values in float64 at 257 points from -5 to 5, 0 among them."""
    return expression.value(torch.linspace(-_RANGE, _RANGE, _POINTS, dtype=torch.float64), *betas)


def unfit(expression: Expression) -> str:
    """Why an expression is no activation, on inputs from -5 to 5: "constant", "not finite", "explodes"; else ""."""
    found = values(expression)
    if not found.isfinite().all():
        return "not finite"
    if found.max() - found.min() < _CONSTANT:
        return "constant"
    return "explodes" if found.abs().max() > _LARGEST else ""


def fingerprint(expression: Expression, learn: bool = True) -> str:
    """The hash of its values, equal for equal functions.

    Functions that `learn` their parameters are equal if they are so at other parameters, too.
    """
    betas = expression.betas
    settings = [betas]
    if learn and betas:
        settings += [tuple(other[k % len(other)] for k in range(len(betas))) for other in _OTHER_BETAS]
    digest = hashlib.sha256(str(len(betas) if learn else 0).encode())
    for setting in settings:
        rounded = values(expression, setting).mul(10**_DIGITS).round() + 0.0  # no negative zeros
        digest.update(rounded.numpy().tobytes())
    return digest.hexdigest()[:16]


def distinct(expressions: Iterable[Expression], learn: bool = True) -> dict[str, Expression]:
    """The simplest expression of every distinct function that is fit as an activation, by its fingerprint."""
    found: dict[str, Expression] = {}
    for expression in expressions:
        if unfit(expression):
            continue
        key = fingerprint(expression, learn)
        if key not in found or _simplicity(expression) < _simplicity(found[key]):
            found[key] = expression
    return found


def _simplicity(expression: Expression) -> tuple[int, int, str]:
    return expression.size, len(expression.betas), str(expression)
