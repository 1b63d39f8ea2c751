"""Drawing: what it counts, and the values that it takes."""

from __future__ import annotations

from surgery.drawing.subjects import drawing_of
from surgery.errors import UnknownName
from tests.asserts import assert_raises
from tests.models import ResidualNet

DRAWING = drawing_of(ResidualNet(), example=ResidualNet.example)
TIMES = "\N{MULTIPLICATION SIGN}"


def test_it_counts() -> None:
    assert (DRAWING.blocks, len(DRAWING.rows), DRAWING.states) == (2, 3, {"call": 5})
    assert DRAWING.input_shape == f"2 {TIMES} 3 {TIMES} 8 {TIMES} 8"


def test_values_are_for_calls_and_blocks_of_the_network_before() -> None:
    values = DRAWING.with_values({"layer1.0": 2.0, "relu": 1.0}, "ms").values
    assert values is not None and values.share("relu") == 0.5
    assert_raises(UnknownName, lambda: DRAWING.with_values({"layer2.0": 2.0}, "ms"), "layer2.0", "layer1.0")
