"""ONNX Runtime, by torch's own ONNX exporter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

FILE = "model.onnx"
# The first with GELU as one operator. Not the newest: asked for 26, torch 2.15 writes a file that no runtime reads.
OPSET = 20


def write(network: Network, folder: Path) -> None:
    """Write model.onnx, with its weights beside it where they are large."""
    program = torch.onnx.export(
        network.program, dynamo=True, opset_version=OPSET, verbose=False,
        input_names=_names("input", len(network.args)), output_names=_names("output", len(network.outputs)),
    )  # fmt: skip
    assert program is not None
    program.save(folder / FILE)


def load(folder: Path) -> Run:
    """A session on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, given)]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its nodes."""
    import onnx

    graph = onnx.load(folder / FILE, load_external_data=False).graph
    return tuple(node.op_type for node in graph.node if node.op_type != "Constant")


def _names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{place}" for place in range(count)]


TARGET = Target(
    "onnxruntime", "deploy-onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime", "onnx", "onnxscript"),
    write, operators, load, any_batch=True, half=True,
)  # fmt: skip
