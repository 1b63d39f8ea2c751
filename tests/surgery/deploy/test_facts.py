"""The facts beside a written network: the shapes of its inputs and outputs, and which of them grow with the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from surgery.deploy.facts import output_shapes, write_facts
from surgery.deploy.network import Network, network_of
from tests.surgery.deploy.memory import MEMORY


class Detector(nn.Module):
    """Scores of each image, anchors that are the same for all, and a number."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.relu(), torch.ones(7, 4), torch.tensor(0.5)


def shapes(network: Network, folder: Path) -> list[list[int | str]]:
    write_facts(network, MEMORY, folder)
    facts = json.loads((folder / "deploy.json").read_text())
    assert facts["target"] == "memory" and facts["versions"].startswith(f"torch {torch.__version__}, torch ")
    return [tensor["shape"] for tensor in (*facts["inputs"], *facts["outputs"])]


def test_only_what_grows_with_the_batch_has_that_axis(tmp_path: Path) -> None:
    single = network_of(Detector(), torch.randn(1, 3))
    assert shapes(replace(single, any_batch=True), tmp_path) == [["batch", 3], ["batch", 3], [7, 4], []]
    assert shapes(single, tmp_path) == [[1, 3], [1, 3], [7, 4], []]


def test_the_shapes_of_outputs_are_read_back(tmp_path: Path) -> None:
    write_facts(network_of(Detector(), torch.randn(1, 3)), MEMORY, tmp_path)
    assert output_shapes(tmp_path) == [(1, 3), (7, 4), ()]
