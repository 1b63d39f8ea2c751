"""A target without a runtime: torch's own exported program, in a file, with what a converter may do to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target
from surgery.errors import NotConvertible

FILE = "program.txt"
_programs: dict[str, Network] = {}


def write(network: Network, folder: Path) -> None:
    """The operators as lines of a file; the program stays in memory, under the file's contents."""
    names = [node.target.__name__ for node in network.program.graph.nodes if node.op == "call_function"]
    number = str(len(_programs))
    _programs[number] = network
    (folder / FILE).write_text("\n".join([number, *names]))


def operators(folder: Path) -> tuple[str, ...]:
    return tuple((folder / FILE).read_text().splitlines()[1:])


def load(folder: Path) -> Run:
    forward = _programs[(folder / FILE).read_text().splitlines()[0]].program.module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(forward(*inputs))

    return run


MEMORY = Target("memory", "deploy-memory", ("torch",), ("torch",), write, operators, load, any_batch=True, half=True)


def lacking(*kinds: str) -> Target:
    """One whose converter refuses these operators."""

    def refuse(network: Network, folder: Path) -> None:
        write(network, folder)
        if left := sorted({operator for operator in operators(folder) for kind in kinds if operator.startswith(kind)}):
            raise NotConvertible(f"memory does not have {', '.join(left)}.")

    return replace(MEMORY, write=refuse)


def wrong(kind: str, by: Callable[[Tensor], Tensor]) -> Target:
    """One that changes the outputs of a network that has this operator."""

    def load_wrong(folder: Path) -> Run:
        run = load(folder)
        return lambda inputs: [by(output) if kind in operators(folder) else output for output in run(inputs)]

    return replace(MEMORY, load=load_wrong)
