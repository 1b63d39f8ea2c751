"""What runtimes do silently, and what guards against it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import surgery
from surgery.deploy.network import network_of
from surgery.deploy.probe import as_trained, probed
from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Target
from surgery.deploy.written import written

# Runtimes warn about each other: of forks, of other versions, of files they leave to the garbage collector.
pytestmark = [pytest.mark.runtimes, pytest.mark.filterwarnings("ignore")]
GRID = torch.linspace(-6, 6, 2 * 8 * 16).reshape(2, 8, 4, 4)


def installed(name: str) -> Target:
    if not TARGETS[name].installed():
        pytest.skip(f"{name} is not installed")
    return TARGETS[name]


def test_openvino_keeps_the_beta_of_a_softplus() -> None:
    """Its path by TorchScript drops it."""
    assert probed(nn.Softplus(beta=2), GRID, installed("openvino")).error < 1e-5


def test_openvino_computes_in_float32() -> None:
    """By default it computes in bfloat16 on processors that can, 1e-3 off."""
    target = installed("openvino")
    convs = nn.Sequential(nn.Conv2d(8, 16, 3), nn.SiLU(), nn.Conv2d(16, 8, 1))
    assert surgery.deploy.check(convs, target.name, GRID).error < 1e-6


def test_openvino_keeps_the_precision_of_weights(tmp_path: Path) -> None:
    """By default it saves half precision."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    folder = surgery.deploy.export(model, installed("openvino").name, tmp_path / "out", torch.randn(2, 64))
    assert (folder / "model.bin").stat().st_size >= 64 * 64 * 4


def test_ncnn_says_what_pnnx_leaves_unconverted() -> None:
    """pnnx ends with exit code 0; ncnn refuses the file, in a return code."""
    found = probed(nn.Softplus(beta=2), GRID, installed("ncnn"))
    assert found.verdict == "fails" and "nn.Softplus" in found.problem


def test_ncnn_runs_batches_one_by_one() -> None:
    """It has no batch axis, and gives slopes to the wrong axis where there is one."""
    slopes = nn.PReLU(3)
    slopes.weight.data = torch.tensor([-1.0, 0.5, 2.0])
    report = surgery.deploy.check(nn.Sequential(slopes), installed("ncnn").name, torch.randn(3, 3, 4, 4))
    assert report.ok and not report.any_batch


class Anchored(nn.Module):
    """Features of each image, their mean, and anchors and a number that are the same for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("anchors", torch.arange(28.0).reshape(7, 4))
        self.register_buffer("stride", torch.tensor(8.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x).relu()
        return y, y.mean((2, 3)), self.anchors.relu(), 2 * self.stride


def test_ncnn_gives_outputs_without_a_batch_axis_as_they_are() -> None:
    """It hands all outputs over without one: where torch has an axis, the facts beside the network say."""
    report = surgery.deploy.check(Anchored(), installed("ncnn").name, torch.randn(3, 3, 4, 4))
    assert report.ok, report


def test_children_called_by_number_are_no_problem_for_pnnx() -> None:
    assert surgery.deploy.check(nn.Sequential(nn.PReLU()), installed("ncnn").name, GRID).ok


def test_coreml_keeps_the_tanh_gelu() -> None:
    """Its path by torch.export makes it the exact one."""
    target = installed("coreml")
    with written(network_of(nn.GELU("tanh"), GRID).one_by_one(), target) as made:
        import coremltools

        spec = coremltools.models.MLModel(str(made.folder / "model.mlpackage"), skip_model_load=True).get_spec()
        function = spec.mlProgram.functions["main"]
        [gelu] = [
            operation
            for operation in function.block_specializations[function.opset].operations
            if operation.type == "gelu"
        ]
        assert b"TANH" in gelu.SerializeToString() or "TANH" in str(function)


@pytest.mark.parametrize("slope", [0.25, 0.0])
def test_coreml_refuses_slopes_of_tokens_before_they_are_learned(slope: float) -> None:
    """It takes them as long as all are alike, and refuses after training."""
    found = probed(as_trained(nn.PReLU(6, init=slope)), torch.randn(2, 6, 8), installed("coreml"))
    assert found.verdict == "fails" and "alpha" in found.problem


def test_executorch_has_one_gelu() -> None:
    """XNNPACK computes the exact one for both: the tanh GELU is found to be wrong."""
    found = probed(nn.GELU("tanh"), GRID, installed("executorch"))
    assert found.verdict == "wrong" and 1e-4 < found.error < 1e-3
    assert probed(nn.GELU(), GRID, installed("executorch")).verdict == "one operator"


def test_tvm_has_a_selu_without_its_scale() -> None:
    found = probed(nn.SELU(), GRID, installed("tvm"))
    assert found.verdict == "wrong" and found.error > 0.02


@pytest.mark.parametrize("shape", [(2, 6, 4, 4), (2, 6, 8), (2, 6), (2, 6, 2, 2, 2)])
def test_onnxruntime_gets_a_prelu_in_two_lines(shape: tuple[int, ...]) -> None:
    """It runs these faster than its own PRelu."""
    slopes = nn.PReLU(6)
    slopes.weight.data = torch.linspace(-1, 2, 6)
    found = probed(slopes, torch.randn(shape), installed("onnxruntime"))
    assert found.operators == ("Relu", "Mul", "Mul", "Add") and found.error is not None and found.error < 1e-6


def test_a_network_for_onnx_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, exports = torch.export.export, []

    def counted(*args: Any, **keywords: Any) -> ExportedProgram:
        exports.append(1)
        return export(*args, **keywords)

    monkeypatch.setattr(torch.export, "export", counted)
    model, _ = surgery.transform(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), surgery.swap("prelu"), GRID)
    surgery.deploy.export(model, installed("onnxruntime").name, tmp_path / "out", GRID)
    assert exports == [1]


def test_onnx_far_below_zero() -> None:
    """A logarithm of a sigmoid is minus infinity where torch still counts."""
    found = probed(nn.LogSigmoid(), GRID * 20, installed("onnxruntime"))
    assert found.verdict == "wrong" and found.error == float("inf")
