"""Notation: what is printed is read again; what is not an expression is told apart, and never evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.activations.expressions.expression import Expression, X
from surgery.activations.expressions.notation import parse
from surgery.activations.expressions.operators import OPERATORS
from surgery.errors import SurgeryError
from tests.asserts import assert_raises


def _larger(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def called(name: str) -> st.SearchStrategy[Expression]:
        row = OPERATORS[name]
        beta = st.floats(-9, 9) if row.has_beta else st.none()
        return st.builds(Expression, st.just(name), st.tuples(*[inner] * row.arity), beta)

    return st.sampled_from(list(OPERATORS)).flatmap(called)


@given(st.recursive(st.just(X), _larger, max_leaves=8).filter(lambda tree: tree.depth < 12))
def test_what_is_printed_is_read_again(expression: Expression) -> None:
    assert parse(str(expression)) == expression


def test_spaces_do_not_matter() -> None:
    assert str(parse(" mul( x,sigmoid (scale(x , 0.50)) )")) == "mul(x, sigmoid(scale(x, 0.5)))"
    assert str(parse("shift(x, -1e-3)")) == "shift(x, -0.001)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an operator or x is expected, not 'the end'"),
        ("mul(x, x", "')' is expected, not 'the end'"),
        ("mul(x, x) x", "the end is expected, not 'x'"),
        ("mul(x x)", "')' is expected, not 'x'"),
        ("scale(2, x)", "')' is expected, not ','"),
        ("sin(x.real)", "'.' means nothing"),
        ("sin(x)[0]", "'[' means nothing"),
        ("x(x)", "the end is expected"),
        ("exit(x)", "No operator is named 'exit'"),
        ("sin(" * 300 + "x" + ")" * 300, "too long"),
        ("sin(" * 150 + "x" + ")" * 150, "too deep"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    assert_raises(SurgeryError, lambda: parse(text), said)
