"""OpenVINO, from torch's exported program: its path by TorchScript drops the beta of a Softplus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

FILE = "model.xml"
_NO_OPERATORS = {"Constant", "Parameter", "Result"}


def write(network: Network, folder: Path) -> None:
    """Write model.xml and model.bin, weights as they are: by default they would be cut down to half precision."""
    import openvino

    openvino.save_model(openvino.convert_model(network.program), folder / FILE, compress_to_fp16=False)


def load(folder: Path) -> Run:
    """The network compiled for the CPU, in float32: on many processors it would compute in bfloat16 by itself."""
    import openvino

    compiled = openvino.Core().compile_model(folder / FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(found[place].copy()) for place in range(len(compiled.outputs))]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its operations."""
    import openvino

    found = openvino.Core().read_model(folder / FILE).get_ordered_ops()
    return tuple(node.get_type_name() for node in found if node.get_type_name() not in _NO_OPERATORS)


TARGET = Target(
    "openvino", "deploy-openvino", ("openvino",), ("openvino",), write, operators, load, any_batch=True, half=True
)
