"""Measuring: networks in deployed form side by side, their times in turns and their accuracy on the same images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import surgery
from benchmarks import deploy_speed
from benchmarks.budget.report import Row
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import FILE, TARGET
from surgery.deploy.written import written


def folded(model: nn.Module, image: Tensor) -> nn.Module:
    """The network as it is deployed: linear neighbours merged, batch norms among them."""
    return surgery.merge(model.eval(), example=image)[0].to(memory_format=torch.channels_last)


def fastest(networks: Mapping[str, nn.Module], images: Tensor, turns: int) -> dict[str, float]:
    """Milliseconds of processor time of each network, the minimum of so many turns; all take turns."""
    images = images.contiguous(memory_format=torch.channels_last)
    best = dict.fromkeys(networks, math.inf)
    with torch.inference_mode():
        for turn in range(turns + 2):
            for name, network in networks.items():
                started = time.process_time()
                network(images)
                if turn >= 2:
                    best[name] = min(best[name], 1000 * (time.process_time() - started))
    return best


def fastest_in_onnxruntime(networks: Mapping[str, nn.Module], images: Tensor, turns: int) -> dict[str, float]:
    """The same in ONNX Runtime."""
    images, sessions = images.contiguous(), {}
    for name, network in networks.items():
        with TemporaryDirectory() as scratch:
            plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
            with written(network_of(plain, images), TARGET, Path(scratch, "net")) as files:
                sessions[name] = deploy_speed.session(files.folder / FILE)
    return deploy_speed.fastest(sessions, images, turns)


@torch.no_grad()
def log_shares(model: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    return torch.cat([model.eval()(batch) for batch in batches]).log_softmax(1)


def measured(
    networks: Mapping[str, tuple[nn.Module, str]],
    batches: Sequence[Tensor],
    labels: Tensor,
    times: Mapping[str, float],
    prefer: str,
) -> list[Row]:
    """A row for each network and what was done to it, compared with the one called `prefer`."""
    before = log_shares(networks[prefer][0], batches)
    rows = []
    for name, (network, edits) in networks.items():
        after = log_shares(network, batches)
        each = 100 * ((before.argmax(1) == labels).double() - (after.argmax(1) == labels).double())
        kl = (before.exp() * (before - after)).sum(1).mean()
        right = float((after.argmax(1) == labels).double().mean())
        rows.append(
            Row(name, edits, times[name], times[prefer] / times[name], right, float(each.mean()),
                float(each.std()) / math.sqrt(len(each)), float(kl))
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows
