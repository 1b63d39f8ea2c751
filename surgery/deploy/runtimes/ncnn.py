"""ncnn, by pnnx from a TorchScript trace, in float32."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from surgery.deploy.facts import output_shapes
from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target, numbers_in
from surgery.errors import NotConvertible

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
_NO_OPERATORS = {"Input", "MemoryData", "Split"}  # constants; and what hands one result on to several readers


def write(network: Network, folder: Path) -> None:
    """Write model.ncnn.param and model.ncnn.bin.

    Raises:
        NotConvertible: pnnx fails, or leaves operators unconverted, about which it says nothing itself.
    """
    import pnnx

    with TemporaryDirectory() as scratch, torch.no_grad():
        traced = Path(scratch, "model.pt")
        torch.jit.trace(network.model, network.args, check_trace=False).save(traced)
        shapes = ",".join(f"{_shape(arg)}{_KINDS[arg.dtype]}" for arg in network.args)
        command = [pnnx.EXEC_PATH, traced, f"inputshape={shapes}", "fp16=0"]
        command += [f"ncnnparam={folder / PARAM}", f"ncnnbin={folder / BIN}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / PARAM).is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise NotConvertible("pnnx cannot convert the network.", asked=f"exit code {done.returncode}: {last}")
    left = sorted({kind for kind in operators(folder) if not kind.isidentifier()})
    if left:
        raise NotConvertible(f"pnnx leaves operators that ncnn does not have: {', '.join(left)}.")


def load(folder: Path) -> Run:
    """The network in float32: by itself ncnn rounds to half precision where the processor can.

    Outputs get the shapes that they have in torch: ncnn drops the batch axis, and has no numbers without an axis.

    Raises:
        NotConvertible: ncnn refuses the file.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(folder / PARAM)) or net.load_model(str(folder / BIN)):
        raise NotConvertible("ncnn cannot load the network.")

    # out0, out1, ..., listed in any order
    results = list(zip(sorted(net.output_names(), key=numbers_in), output_shapes(folder), strict=True))

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with net.create_extractor() as extractor:
            for place, tensor in enumerate(inputs):
                extractor.input(f"in{place}", ncnn.Mat(tensor[0].contiguous().numpy()).clone())
            outputs = []
            for name, shape in results:
                code, mat = extractor.extract(name)
                if code:
                    raise NotConvertible("ncnn cannot run the network.", asked=f"code {code} for {name}")
                outputs.append(_with_axes_of_one(torch.from_numpy(mat.numpy().copy()), shape))
        return outputs

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The types of its layers."""
    lines = (folder / PARAM).read_text(encoding="utf-8").splitlines()[2:]
    kinds = (line.split()[0] for line in lines if line.strip())
    return tuple(kind for kind in kinds if kind not in _NO_OPERATORS)


def _with_axes_of_one(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in this shape, if it only lacks axes of one, or has more of them; else as it is."""
    same = [size for size in found.shape if size != 1] == [size for size in shape if size != 1]
    return found.reshape(shape) if same else found


def _shape(tensor: Tensor) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


_KINDS = {torch.float32: "f32", torch.float16: "f16", torch.int64: "i64", torch.int32: "i32"}

TARGET = Target(
    "ncnn", "deploy-ncnn", ("ncnn", "pnnx"), ("ncnn", "pnnx"), write, operators, load, frame=("Pooling", "Pooling1D")
)  # fmt: skip
