"""LiteRT (TensorFlow Lite), by litert-torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Ran, Run, Target, numbers_in

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
    # A name, "serving_default_args_10:0", numbers its place; the interpreter may list them in another order.
    places, results = (
        [detail["index"] for detail in sorted(details, key=lambda detail: numbers_in(detail["name"]))]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        for place, tensor in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, tensor.contiguous().numpy())
        interpreter.invoke()
        return [torch.from_numpy(interpreter.get_tensor(place).copy()) for place in results]

    return run


def quantize(network: Network, folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[Ran, ...]:
    """Quantise model.tflite to 8 bits by ai-edge-quantizer, weights per channel; inputs and outputs stay in float."""
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(folder / FILE), recipe.static_wi8_ai8())
    for end in (recipe.TFLOperationName.INPUT, recipe.TFLOperationName.OUTPUT):
        made.update_quantization_recipe(".*", end, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    [(signature, ends)] = _interpreter(folder).get_signature_list().items()
    names = sorted(ends["inputs"], key=numbers_in)
    given = [{name: tensor.numpy() for name, tensor in zip(names, batch, strict=True)} for batch in batches]
    made.quantize(made.calibrate({signature: given})).export_model(str(folder / FILE), overwrite=True)
    found = (name for name in operators(folder) if name != "TRANSPOSE")
    return tuple(Ran(name, in_float=name == "DEQUANTIZE") for name in found)


def operators(folder: Path) -> tuple[str, ...]:
    """The names of its operators."""
    found = _interpreter(folder)._get_ops_details()  # no public way
    return tuple(operator["op_name"] for operator in found if operator["op_name"] not in _NO_OPERATORS)


def _interpreter(folder: Path):  # type: ignore[no-untyped-def]  # of a package that is imported here
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(folder / FILE))


TARGET = Target(
    "litert", "deploy-litert", ("litert_torch", "ai_edge_litert"), ("litert-torch", "ai-edge-litert"),
    write, operators, load, quantize=quantize, quantizer=("ai_edge_quantizer",),
)  # fmt: skip
