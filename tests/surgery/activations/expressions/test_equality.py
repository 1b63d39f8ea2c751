"""Equality: equal functions have equal fingerprints, and the functions of one core are counted."""

from __future__ import annotations

from collections import Counter

import pytest

from surgery.activations.expressions.equality import distinct, fingerprint, unfit
from surgery.activations.expressions.notation import parse
from tests.surgery.activations.expressions.one_core import ONE_CORE


def test_equal_functions_share_a_fingerprint() -> None:
    swish = {fingerprint(parse(text)) for text in ("mul(x, sigmoid(x))", "gate(x, x)", "mul(sigmoid(x), x)")}
    assert len(swish) == 1
    assert fingerprint(parse("max(x, neg(x))")) == fingerprint(parse("abs(x)"))
    assert fingerprint(parse("sub(x, neg(x))")) == fingerprint(parse("add(x, x)")) != fingerprint(parse("x"))


def test_functions_that_begin_alike_are_equal_only_if_they_do_not_learn() -> None:
    scaled, plain = parse("scale(x)"), parse("x")
    assert fingerprint(scaled, learn=False) == fingerprint(plain, learn=False)
    assert fingerprint(scaled) != fingerprint(plain)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sub(x, x)", "constant"), ("beta", "constant"), ("cube(exp(x))", "explodes"), ("div(x, relu(x))", "explodes"),
        ("exp(exp(exp(x)))", "not finite"), ("mul(x, sigmoid(x))", ""),
    ],
)  # fmt: skip
def test_what_is_unfit(text: str, why: str) -> None:
    assert unfit(parse(text)) == why


@pytest.mark.slow
def test_the_functions_of_one_core_are_counted() -> None:
    assert len(ONE_CORE) == 25 * 25 * 10
    assert Counter(map(unfit, ONE_CORE)) == {"": 5889, "explodes": 211, "constant": 150}
    fixed = distinct(ONE_CORE, learn=False)
    assert len(fixed) == 2904
    assert str(fixed[fingerprint(parse("gate(x, x)"), learn=False)]) == "gate(x, x)", "the simplest stands for all"
