"""Facts: what someone who runs a written network has to know about it, in a file beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from surgery.deploy.network import Network
from surgery.deploy.target import Target

FILE = "deploy.json"


def write_facts(network: Network, target: Target, folder: Path) -> None:
    """Write deploy.json: the versions a network was written with, and the shapes of its inputs and outputs."""
    larger = [torch.cat((tensor, tensor[:1])) for tensor in network.args] if network.any_batch else network.args
    outputs = zip(network.outputs, network.run(larger) if network.any_batch else network.outputs, strict=True)
    facts = {
        "format": 1,
        "target": target.name,
        "versions": f"torch {torch.__version__}, {target.versions}",
        "inputs": [_shape(*pair) for pair in zip(network.args, larger, strict=True)],
        "outputs": [_shape(*pair) for pair in outputs],
    }
    (folder / FILE).write_text(json.dumps(facts) + "\n", encoding="utf-8")


def output_shapes(folder: Path) -> list[tuple[int, ...]]:
    """The shapes of the outputs of a network that was written for one batch size."""
    facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return [tuple(output["shape"]) for output in facts["outputs"]]


def _shape(tensor: Tensor, of_larger_batch: Tensor) -> dict[str, object]:
    """Shape and dtype; the first axis is "batch" where it grows with that."""
    sizes: list[int | str] = list(tensor.shape)
    if tensor.shape[:1] != of_larger_batch.shape[:1]:
        sizes[0] = "batch"
    return {"shape": sizes, "dtype": str(tensor.dtype).removeprefix("torch.")}
