"""The benchmark of the search: its initial weights, its list of functions, and the race of the engines."""

from __future__ import annotations

import pytest

from benchmarks.activation_search import _SPACES, RELU, SWISH, functions, gain, network, search
from recipes.activation_search.engines import ENGINES, Engine
from surgery.activations import build
from surgery.activations.expressions.equality import fingerprint

SPACE = _SPACES["fourteen"]


@pytest.mark.parametrize(("name", "wanted"), [(RELU, 1.4142), (SWISH, 1.6765), ("x", 1.0)])
def test_gains_are_the_known_ones(name: str, wanted: float) -> None:
    assert gain(build(name if name != "x" else "identity")) == pytest.approx(wanted, rel=1e-2)


def test_weights_have_the_gain_of_the_function_behind_the_first_layer() -> None:
    layers = network(SWISH, 0)
    assert layers[0].weight.std().item() * 192**0.5 == pytest.approx(1.0, rel=1e-2)
    assert layers[2].weight.std().item() * 256**0.5 == pytest.approx(1.6765, rel=1e-2)


def test_every_function_is_there_once_the_references_first() -> None:
    names = functions(SPACE)
    assert names[:2] == [RELU, SWISH] and len(names) == len(set(names)) == 927


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_meets_functions_of_the_table_once(engine: Engine) -> None:
    listed = [SPACE.expression(chosen) for chosen in SPACE.distinct(learn=False)[::2]]
    table = {fingerprint(expression, learn=False): place / len(listed) for place, expression in enumerate(listed)}
    curve = search(SPACE, engine, 0, table, most=12)
    assert len(curve) == 12 and curve == sorted(curve) and set(curve) <= set(table.values())
