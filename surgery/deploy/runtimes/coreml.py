"""Core ML, by coremltools from a TorchScript trace; it runs on macOS alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

FILE = "model.mlpackage"
_NO_OPERATORS = {"const"}


def write(network: Network, folder: Path) -> None:
    """Write model.mlpackage, in float32. By a trace: from an exported program, the tanh GELU becomes the exact one."""
    import coremltools

    with torch.no_grad():
        traced = torch.jit.trace(network.model, network.args, check_trace=False)
    inputs = [coremltools.TensorType(f"input_{place}", arg.shape) for place, arg in enumerate(network.args)]
    model = coremltools.convert(
        traced, inputs=inputs, convert_to="mlprogram", skip_model_load=True,
        minimum_deployment_target=coremltools.target.iOS17, compute_precision=coremltools.precision.FLOAT32,
    )  # fmt: skip
    model.save(str(folder / FILE))


def load(folder: Path) -> Run:
    """The network on the CPU."""
    import coremltools

    model = coremltools.models.MLModel(str(folder / FILE), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    outputs = [output.name for output in model.get_spec().description.output]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = model.predict({f"input_{place}": tensor.numpy() for place, tensor in enumerate(inputs)})
        return [torch.from_numpy(found[name]) for name in outputs]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its operations."""
    import coremltools

    spec = coremltools.models.MLModel(str(folder / FILE), skip_model_load=True).get_spec()
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    return tuple(operation.type for operation in block.operations if operation.type not in _NO_OPERATORS)


_ON_A_MAC = sys.platform == "darwin"
TARGET = Target(
    "coreml", "deploy-coreml", ("coremltools",), ("coremltools",), write, operators, load if _ON_A_MAC else None,
    not_run="" if _ON_A_MAC else "Core ML runs on macOS alone",
)  # fmt: skip
