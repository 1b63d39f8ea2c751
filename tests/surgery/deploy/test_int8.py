"""A function between two quantised convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from surgery.activations import build
from surgery.deploy.int8 import between_convolutions, probed_int8
from surgery.deploy.runtimes import TARGETS
from tests.surgery.deploy.memory import MEMORY


def test_what_stands_between_the_convolutions() -> None:
    names = ("QuantizeLinear", "Transpose", "QLinearConv", "QLinearSigmoid", "QLinearMul", "QLinearConv", "Transpose")
    assert between_convolutions(names) == ("QLinearSigmoid", "QLinearMul")
    assert between_convolutions(("QLinearConv", "QLinearConv")) == ()


@pytest.mark.parametrize(
    ("left", "verdict"), [(("Relu",), "one operator"), (("Dequantize", "Gelu", "Quantize"), "in float")]
)
def test_verdicts(left: tuple[str, ...], verdict: str) -> None:
    seen: list[int] = []

    def quantize(folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[str, ...]:
        seen.append(len(batches))
        return ("Conv", *left, "Conv")

    found = probed_int8(nn.ReLU(), replace(MEMORY, quantize=quantize), 4)
    assert found.verdict == verdict and found.operators == left and found.error is not None and found.error < 1e-6
    assert seen == [32]


@pytest.mark.runtimes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "verdict", "operators"),
    [
        ("relu", "one operator", ()),
        ("leaky_relu", "one operator", ("QLinearLeakyRelu",)),
        ("silu", "decomposed", ("QLinearSigmoid", "QLinearMul")),
        ("gelu", "in float", ("DequantizeLinear", "Gelu", "QuantizeLinear")),
    ],
)
def test_onnxruntime_in_8_bits(name: str, verdict: str, operators: tuple[str, ...]) -> None:
    if not TARGETS["onnxruntime"].installed():
        pytest.skip("onnxruntime is not installed")
    found = probed_int8(build(name), TARGETS["onnxruntime"], 8)
    assert (found.verdict, found.operators) == (verdict, operators) and found.error is not None and found.error < 0.03
