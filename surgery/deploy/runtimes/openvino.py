"""OpenVINO, from torch's exported program: its path by TorchScript drops the beta of a Softplus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Ran, Run, Target

FILE = "model.xml"
_NO_OPERATORS = {"Constant", "Parameter", "Result"}
_NOT_COMPUTED = {"Const", "Input", "Output", "Reorder", "Reshape"}  # in a compiled network


def write(network: Network, folder: Path) -> None:
    """Write model.xml and model.bin, weights as they are: by default they would be cut down to half precision."""
    import openvino

    openvino.save_model(openvino.convert_model(network.program), folder / FILE, compress_to_fp16=False)


def load(folder: Path) -> Run:
    """The network compiled for the CPU, in float32: on many processors it would compute in bfloat16 by itself."""
    compiled = _compiled(folder)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(found[place].copy()) for place in range(len(compiled.outputs))]

    return run


def quantize(network: Network, folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[Ran, ...]:
    """Quantise model.xml to 8 bits by NNCF, which OpenVINO leaves this to; the operators that run then, fused.

    An operator that computes in float is listed with its precision.
    """
    import nncf
    import openvino

    given = [tuple(tensor.numpy() for tensor in batch) for batch in batches]
    small = nncf.quantize(openvino.Core().read_model(folder / FILE), nncf.Dataset(given), subset_size=len(given))
    with TemporaryDirectory(dir=folder) as scratch:  # the weights that are there are mapped into memory
        openvino.save_model(small, Path(scratch, FILE), compress_to_fp16=False)
        del small
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)
    found = []
    for node in _compiled(folder).get_runtime_model().get_ordered_ops():
        kind, precision = (node.get_rt_info()[fact].astype(str) for fact in ("layerType", "runtimePrecision"))
        if kind not in _NOT_COMPUTED:
            in_float = precision.startswith(("f", "bf"))
            found.append(Ran(f"{kind} {precision}" if in_float else kind, in_float))
    return tuple(found)


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its operations."""
    import openvino

    found = openvino.Core().read_model(folder / FILE).get_ordered_ops()
    return tuple(node.get_type_name() for node in found if node.get_type_name() not in _NO_OPERATORS)


def _compiled(folder: Path):  # type: ignore[no-untyped-def]  # of a package that is imported here
    import openvino

    return openvino.Core().compile_model(folder / FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


TARGET = Target(
    "openvino", "deploy-openvino", ("openvino",), ("openvino",), write, operators, load, any_batch=True, half=True,
    quantize=quantize, quantizer=("nncf",),
)  # fmt: skip
