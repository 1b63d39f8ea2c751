"""A function between two quantised convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from surgery.activations import build, row_of
from surgery.deploy.int8 import between_convolutions, probed_int8
from surgery.deploy.network import Network
from surgery.deploy.probe import as_trained
from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Ran
from tests.surgery.deploy.memory import MEMORY


def test_what_stands_between_the_convolutions() -> None:
    names = ("QuantizeLinear", "QLinearConv", "QLinearSigmoid", "Convert", "QLinearConv", "DequantizeLinear")
    between = between_convolutions(tuple(Ran(name) for name in names))
    assert [operator.name for operator in between] == ["QLinearSigmoid", "Convert"]
    assert between_convolutions((Ran("CONV_2D"), Ran("CONV_2D"))) == ()


@pytest.mark.parametrize(
    ("left", "verdict"),
    [((Ran("Relu"),), "one operator"), ((Ran("Convert", in_float=True), Ran("Gelu"), Ran("Convert")), "in float")],
)
def test_verdicts(left: tuple[Ran, ...], verdict: str) -> None:
    seen: list[int] = []

    def quantize(network: Network, folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[Ran, ...]:
        seen.append(len(batches))
        return (Ran("Conv"), *left, Ran("Conv"))

    found = probed_int8(nn.ReLU(), replace(MEMORY, quantize=quantize), 4)
    assert found.verdict == verdict and found.operators == tuple(operator.name for operator in left)
    assert found.error is not None and found.error < 1e-6
    assert seen == [1]


@pytest.mark.runtimes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("target", "name", "verdict", "operators"),
    [
        ("onnxruntime", "relu", "one operator", ()),
        ("onnxruntime", "leaky_relu", "one operator", ("QLinearLeakyRelu",)),
        ("onnxruntime", "silu", "decomposed", ("QLinearSigmoid", "QLinearMul")),
        ("onnxruntime", "gelu", "in float", ("DequantizeLinear", "Gelu", "QuantizeLinear")),
        ("openvino", "gelu", "one operator", ()),
        ("openvino", "prelu", "in float", ("Eltwise f32", "Eltwise f32", "Eltwise")),
        ("litert", "gelu", "one operator", ("GELU",)),
        ("litert", "silu", "decomposed", ("LOGISTIC", "MUL")),
        ("executorch", "relu", "one operator", ()),
        ("executorch", "silu", "in float", ("Convert", "Sigmoid", "Multiply", "Convert")),
    ],
)
def test_targets_in_8_bits(target: str, name: str, verdict: str, operators: tuple[str, ...]) -> None:
    if not TARGETS[target].quantizes():
        pytest.skip(f"{target} or its quantiser is not installed")
    function = as_trained(build(name, 8)) if row_of(name).learns else build(name)
    found = probed_int8(function, TARGETS[target], 8)
    assert (found.verdict, found.operators) == (verdict, operators), found
    assert found.error is not None and found.error < 0.03
