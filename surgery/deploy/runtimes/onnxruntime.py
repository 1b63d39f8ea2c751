"""ONNX Runtime, by torch's own ONNX exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Ran, Run, Target

FILE = "model.onnx"
# The first with GELU as one operator. Not the newest: asked for 26, torch 2.15 writes a file that no runtime reads.
OPSET = 20


def write(network: Network, folder: Path) -> None:
    """Write model.onnx, with its weights beside it where they are large."""
    program = torch.onnx.export(
        network.program, dynamo=True, opset_version=OPSET, verbose=False,
        input_names=_names("input", len(network.args)), output_names=_names("output", len(network.outputs)),
        custom_translation_table={torch.ops.aten.prelu.default: _two_lines},
    )  # fmt: skip
    assert program is not None
    program.save(folder / FILE)


def load(folder: Path) -> Run:
    """A session on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its nodes."""
    import onnx

    graph = onnx.load(folder / FILE, load_external_data=False).graph
    return tuple(node.op_type for node in graph.node if node.op_type != "Constant")


def quantize(network: Network, folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[Ran, ...]:
    """Quantise model.onnx to 8 bits, calibrated on these inputs; the operators that run then, fused as they run.

    Activations are unsigned, weights per channel: signed activations, the default, leave most convolutions in float.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [node.name for node in onnxruntime.InferenceSession(folder / FILE).get_inputs()]
    given = [{name: tensor.numpy() for name, tensor in zip(names, batch, strict=True)} for batch in batches]
    quant_pre_process(folder / FILE, folder / FILE, skip_symbolic_shape=True)
    quantize_static(
        folder / FILE, folder / FILE, _Reader(given), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    with TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(Path(scratch, FILE)), 3
        onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        names = [node.op_type for node in onnx.load(Path(scratch, FILE)).graph.node]
    return tuple(Ran(name, in_float=name == "DequantizeLinear") for name in names if name != "Transpose")


def _two_lines(x: Any, slope: Any) -> Any:
    """PReLU in the form that ONNX Runtime runs faster than its PRelu, channels on axis 1."""
    from onnxscript import opset20

    op: Any = opset20  # its annotations know of tensors alone
    if len(x.shape) > 1:
        slope = op.Reshape(slope, [-1, *[1] * (len(x.shape) - 2)])
    return op.Add(op.Mul(op.Relu(x), op.Sub(op.CastLike(1.0, slope), slope)), op.Mul(x, slope))


class _Reader:
    """The inputs to calibrate on, one after the other, then None."""

    def __init__(self, given: Sequence[Mapping[str, Any]]) -> None:
        self.given = iter(given)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self.given, None)


def _names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{place}" for place in range(count)]


TARGET = Target(
    "onnxruntime", "deploy-onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime", "onnx", "onnxscript"),
    write, operators, load, any_batch=True, half=True, quantize=quantize,
)  # fmt: skip
