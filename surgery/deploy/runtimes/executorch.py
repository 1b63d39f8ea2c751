"""ExecuTorch, with whatever XNNPACK takes delegated to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target

FILE = "model.pte"


def write(network: Network, folder: Path) -> None:
    """Write model.pte."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(network.program, partitioner=[XnnpackPartitioner()])
    (folder / FILE).write_bytes(lowered.to_executorch().buffer)


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
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall

    plan = deserialize_pte_binary((folder / FILE).read_bytes()).program.execution_plan[0]
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    return tuple(
        plan.operators[call.op_index].name if isinstance(call, KernelCall) else "XNNPACK"
        for call in calls
        if isinstance(call, KernelCall | DelegateCall)
    )


TARGET = Target("executorch", "deploy-executorch", ("executorch",), ("executorch",), write, operators, load)
