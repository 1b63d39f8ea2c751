"""All expressions of one core unit, as the paper composes them: a binary function of two unary ones."""

from __future__ import annotations

from surgery.activations.expressions.expression import Expression, X
from surgery.activations.expressions.operators import BINARY, INPUT, OPERATORS, UNARY


def unary(name: str, inner: Expression = X) -> Expression:
    """A unary function, of which "x" is the identity and "beta" a constant."""
    if name == INPUT:
        return inner
    return Expression(name, (inner,) * OPERATORS[name].arity)


ONE_CORE = [Expression(binary, (unary(left), unary(right))) for binary in BINARY for left in UNARY for right in UNARY]
