"""LiteRT (TensorFlow Lite), by litert-torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

FILE = "model.tflite"
_NO_OPERATORS = {"DELEGATE"}  # stands for operators that are listed, too


def write(network: Network, folder: Path) -> None:
    """Write model.tflite."""
    import litert_torch

    litert_torch.convert(network.model, network.args).export(str(folder / FILE))


def load(folder: Path) -> Run:
    """An interpreter on the CPU."""
    interpreter = _interpreter(folder)
    interpreter.allocate_tensors()
    # The interpreter may list them in another order.
    places = [detail["index"] for detail in sorted(interpreter.get_input_details(), key=place_of)]
    results = [detail["index"] for detail in sorted(interpreter.get_output_details(), key=place_of)]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        for place, tensor in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, tensor.contiguous().numpy())
        interpreter.invoke()
        return [torch.from_numpy(interpreter.get_tensor(place).copy()) for place in results]

    return run


def place_of(detail: Mapping[str, Any]) -> list[int]:
    """The place of an input or an output: its name, "serving_default_args_10:0", numbers it."""
    return [int(number) for number in re.findall(r"\d+", detail["name"])]


def operators(folder: Path) -> tuple[str, ...]:
    """The names of its operators."""
    found = _interpreter(folder)._get_ops_details()  # no public way
    return tuple(operator["op_name"] for operator in found if operator["op_name"] not in _NO_OPERATORS)


def _interpreter(folder: Path):  # type: ignore[no-untyped-def]  # of a package that is imported here
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(folder / FILE))


TARGET = Target(
    "litert", "deploy-litert", ("litert_torch", "ai_edge_litert"), ("litert-torch", "ai-edge-litert"),
    write, operators, load,
)  # fmt: skip
