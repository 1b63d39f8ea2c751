"""The catalogue: names are unique, and every row says what is true."""

from __future__ import annotations

import pytest

from surgery import activations
from surgery.activations.catalogue import ROWS
from tests.surgery.activations.every import SWEPT

# What everybody knows has no source.
KNOWN = ("identity", "relu", "hardtanh", "softplus", "tanh", "sigmoid", "hardsigmoid")


def test_every_name_and_alias_is_taken_once() -> None:
    taken = [name for row in ROWS for name in (row.name, *row.aliases)]
    assert len(taken) == len(set(taken))
    assert activations.names() == sorted(row.name for row in ROWS)
    assert len(ROWS) == len(SWEPT) == 30
    for row in ROWS:
        for name in (row.name, *row.aliases):
            assert activations.row_of(name) is row
            assert type(activations.build(name)) is type(activations.build(row.name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_is_true(row: activations.Activation) -> None:
    assert row.formula and bool(row.source) == (row.name not in KNOWN)
    module = activations.build(row.name, 3)
    learned = {name for name, param in module.named_parameters() if param.requires_grad}
    assert learned == set(row.learns)
    parameters = set(activations.parameters(row.name))
    assert set(row.ranges) <= parameters and set(row.starts) <= parameters
    for old in row.begins:
        assert old in activations.names()
    assert row.role in ("nonlinearity", "gate", "head", "linear")
    assert all(param.shape[-1] == 3 for param in module.parameters()), "channels stand last"


def test_how_each_can_begin_in_words() -> None:
    assert activations.row_of("prelu").beginning == "relu, leaky_relu, prelu exactly; any other by its value at -1"
    assert activations.row_of("gelu").beginning == "itself only"
