"""Space: the cores of the paper, those of a file, and what is no space."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.activation_search.space import SPACES, Space, space_of
from surgery.activations.expressions.equality import unfit
from surgery.errors import SurgeryError
from tests.asserts import assert_raises
from tests.recipes.activation_search.oracle import SMALL


def test_the_sizes_of_the_paper() -> None:
    assert SPACES["one-core"].size == 25 * 25 * 10
    assert SPACES["two-core"].size == 3 * (25 * 25 * 10) ** 2


def test_choices_make_expressions() -> None:
    space = SPACES["two-core"]
    first = {"unary_1": "x", "unary_2": "beta", "binary_1": "mul"}
    second = {"unary_3": "sin", "unary_4": "x", "binary_2": "gate", "inputs": "x, core"}
    assert str(space.expression(first | second)) == "gate(sin(x), mul(x, beta))"
    assert str(SMALL.expression({"unary_1": "tanh", "unary_2": "tanh", "binary_1": "max"})) == "tanh(x)"


def test_distinct_functions_are_listed_once_and_in_one_order() -> None:
    listed = SMALL.distinct(learn=False)
    expressions = [str(SMALL.expression(chosen)) for chosen in listed]
    assert len(list(SMALL)) == SMALL.size == 48
    assert len(set(expressions)) == len(expressions) == 26
    assert "mul(sigmoid(x), x)" in expressions and "mul(x, sigmoid(x))" not in expressions
    assert not any(unfit(SMALL.expression(chosen)) for chosen in listed)
    assert_raises(SurgeryError, lambda: SPACES["two-core"].distinct(True), "too large", "117,187,500", "evolution")


def test_a_file_is_a_space(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('format = 1\nabout = "Mine."\nunary = ["x", "tanh"]\nbinary = ["add"]\n')
    assert space_of(file) == Space("mine", unary=("x", "tanh"), binary=("add",), about="Mine.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('unary = ["x"]', "format = None"), ("format = 1\nunaries = []", "the key 'unaries'"),
        ('format = 1\nunary = "x"', "`unary` is not a list"), ("format = 1\nunary = []", "needs unary functions"),
        ('format = 1\nbinary = ["mull"]', "No binary function is named 'mull'"), ("format", "is not TOML"),
        ("format = 1\ncores = 3", "one core or two"), ('format = 1\nunary = ["x", "x"]', "each once"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert_raises(SurgeryError, lambda: space_of(tmp_path / "bad.toml"), said)


def test_an_unknown_space_has_a_hint() -> None:
    assert_raises(SurgeryError, lambda: space_of("one_core"), "one-core, two-core")
    assert_raises(SurgeryError, lambda: space_of("nowhere.toml"), "cannot be read")
