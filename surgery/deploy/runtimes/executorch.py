"""ExecuTorch, with whatever XNNPACK takes delegated to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.export import ExportedProgram

from surgery.deploy.network import Network
from surgery.deploy.target import Ran, Run, Target

FILE = "model.pte"


def write(network: Network, folder: Path) -> None:
    """Write model.pte."""
    _write(network.program, folder)


def load(folder: Path) -> Run:
    """Its forward, by ExecuTorch's runtime for Python."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(folder / FILE)
    forward = program.load_method("forward")

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [output.clone() for output in forward.execute([tensor.contiguous() for tensor in inputs])]

    return run


def operators(folder: Path) -> tuple[str, ...]:
    """What its instructions call: portable operators, and delegated parts as "XNNPACK"."""
    return tuple(call if isinstance(call, str) else "XNNPACK" for call in _calls(folder))


def quantize(network: Network, folder: Path, batches: Sequence[Sequence[Tensor]]) -> tuple[Ran, ...]:
    """Write model.pte anew in 8 bits, by XNNPACK's quantiser, weights per channel; what runs, inside XNNPACK, too."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    kinds = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    observed = prepare_pt2e(network.program.module(), xnnpack_quantizer.XNNPACKQuantizer().set_global(kinds))
    with torch.no_grad():
        for batch in batches:
            observed(*batch)
        program = torch.export.export(convert_pt2e(observed), network.args)
    _write(program, folder)
    parts = ([call] if isinstance(call, str) else _nodes(call) for call in _calls(folder))
    found = [name for part in parts for name in part if name != "StaticTranspose"]
    return tuple(Ran(name, in_float=name == "Convert" or "::" in name) for name in found)


def _write(program: ExportedProgram, folder: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / FILE).write_bytes(lowered.to_executorch().buffer)


def _calls(folder: Path) -> list[str | bytes]:
    """What its instructions call: the names of portable operators, and the contents of delegated parts."""
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall

    program = deserialize_pte_binary((folder / FILE).read_bytes()).program
    plan = program.execution_plan[0]
    found: list[str | bytes] = []
    for call in (instruction.instr_args for chain in plan.chains for instruction in chain.instructions):
        if isinstance(call, KernelCall):
            found.append(plan.operators[call.op_index].name)
        elif isinstance(call, DelegateCall):
            part = plan.delegates[call.delegate_index].processed
            found.append(bytes(program.backend_delegate_data[part.index].data))
    return found


def _nodes(part: bytes) -> list[str]:
    """The kinds of the nodes of a part that XNNPACK runs, in order."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(part[: XNNHeader.EXPECTED_LENGTH])
    with TemporaryDirectory() as scratch:
        schema, graph = Path(scratch, "schema.fbs"), Path(scratch, "graph.bin")
        schema.write_bytes(_get_schema_bytes())
        graph.write_bytes(part[header.flatbuffer_offset :][: header.flatbuffer_size])
        _flatc_decompile(scratch, str(schema), str(graph))
        # Not read as JSON: it holds bare infinities.
        return re.findall(r'xnode_union_type"?: "XNN(\w+)"', graph.with_suffix(".json").read_text(encoding="utf-8"))


TARGET = Target(
    "executorch", "deploy-executorch", ("executorch",), ("executorch",), write, operators, load, quantize=quantize,
    quantizer=("torchao",),
)  # fmt: skip
