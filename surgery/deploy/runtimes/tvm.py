"""Apache TVM: its graph language Relax, compiled for the processor by LLVM."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

LIBRARY, GRAPH = "model.so", "model.relax.txt"


def write(network: Network, folder: Path) -> None:
    """Write model.so, and the graph it was compiled from, model.relax.txt."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    graph = from_exported_program(network.program)
    (folder / GRAPH).write_text(graph.script(), encoding="utf-8")
    with tvm.transform.PassContext(opt_level=3):
        relax.build(graph, tvm.target.Target("llvm")).export_library(str(folder / LIBRARY))


def load(folder: Path) -> Run:
    """Its main function, in TVM's virtual machine."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / LIBRARY)), tvm.cpu())

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = machine["main"](*(tvm.runtime.tensor(tensor.contiguous().numpy()) for tensor in inputs))
        return [torch.from_numpy(output.numpy()) for output in found]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """The operators of the graph, before it is compiled."""
    graph = (folder / GRAPH).read_text(encoding="utf-8")
    return tuple(name for name in re.findall(r"= R\.([\w.]+)\(", graph) if name not in ("output", "const", "tuple"))


TARGET = Target("tvm", "deploy-tvm", ("tvm",), ("apache-tvm",), write, operators, load)
