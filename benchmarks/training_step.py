"""Training steps of whole networks with learned activations, next to the networks as they are: time and memory.

GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295 python -m benchmarks.training_step

Every activation of the catalogue network is swapped. A step is forward, backward and SGD with momentum.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from benchmarks.bootstrap import interval
from benchmarks.conditions import (
    RESULTS,
    command_line,
    conditions,
    markdown_table,
    memory_in_words,
    paragraph,
    write_results,
)
from benchmarks.memory import bytes_kept, peak_bytes
from recipes.models.build import build

FUNCTIONS = ("pwlu", "prelu", "frelu", "smelu", "swish")
MEMORIES = ("keep", "recompute")
# Batch size and pixels.
NETWORKS = {
    "cifar/resnet20": (128, 32),
    "timm/resnet50": (16, 96),
    "timm/vit_tiny_patch16_224": (4, 224),
}
TIME = {"pwlu": 1.15, "frelu": 1.05, "smelu": 1.05}  # limits
KEPT = (
    "Kept: the tensors that the forward pass keeps for the backward pass; peak: the most memory that a step has in use"
    " at once; both relative to the network as it is."
)
COMPILED = "All networks are compiled whole, by torch.compile with its defaults."


@dataclass(frozen=True)
class Row:
    """A network with one function, relative to the network as it is."""

    network: str
    function: str
    memory: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    kept: float
    peak: float


class Step:
    """A training step of a network on fixed images."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, compiled: bool) -> None:
        self.model, self.images, self.labels = model.train(), images, labels
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True) if compiled else model

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.forward(self.images), self.labels).backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """The processor time of a step, which other processes do not lengthen."""
        started = time.process_time()
        self()
        return time.process_time() - started


def seconds_of_all(step: Step) -> float:
    """The processor time of a step, with that of the compilers it starts."""
    before = os.times()
    step()
    return sum(os.times()[:4]) - sum(before[:4])


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    """All functions in one network. In each round every one has its turn between two steps of the plain network."""
    batch, pixels = NETWORKS[name]
    torch.manual_seed(0)
    images = torch.randn(options.batch_size or batch, 3, pixels, pixels)
    labels = torch.arange(len(images)) % 10
    if options.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    plain = build(name)
    if options.channels_last:
        plain.to(memory_format=torch.channels_last)
    models = {("as it is", ""): plain}
    for function in options.functions:
        for memory in MEMORIES[: 1 if options.torchcompile else 2]:
            rule = surgery.swap(function, memory=memory)
            models[function, memory] = surgery.transform(plain, rule, images[:2])[0]
    steps = {key: Step(deepcopy(model), images, labels, options.torchcompile) for key, model in models.items()}
    reference = steps["as it is", ""]
    if options.torchcompile:
        kept = dict.fromkeys(models, float("nan"))
        peaks = kept
    else:
        kept = {key: bytes_kept(deepcopy(model).train(), images) for key, model in models.items()}
        peaks = {key: peak_bytes(step) for key, step in steps.items()}
    for key, step in steps.items():
        print(f"{name}: first step {' '.join(key)} {seconds_of_all(step):.0f} s", flush=True)
        step()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    before = reference.seconds()
    for turn in range(options.rounds):
        for key, step in steps.items():
            spent, after = step.seconds(), reference.seconds()
            times[key].append(spent)
            ratios[key].append(2 * spent / (before + after))
            before = after
        print(f"{name}: round {turn + 1}", flush=True)
    first = "as it is", ""
    return [
        Row(name, function, memory, 1e3 * statistics.median(times[function, memory]),
            *interval(ratios[function, memory]), kept[function, memory] / kept[first],
            peaks[function, memory] / peaks[first])
        for function, memory in models
    ]  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    limit = TIME.get(row.function) if row.memory == "keep" else None
    verdict = "" if limit is None else f"{limit}, {'met' if row.ratio <= limit else 'missed'}"
    last = () if math.isnan(row.kept) else (f"{row.kept:.2f}", f"{row.peak:.2f}")
    return (
        row.network, row.function, row.memory, f"{row.milliseconds:.0f}", f"**{row.ratio:.3f}**",
        f"{row.low:.3f} to {row.high:.3f}", verdict, *last,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS))
    parser.add_argument("--batch-size", type=int, help="default: 128, 16 and 4")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--torchcompile", action="store_true", help="compiled by torch.compile; without memory")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", default="training_step")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in options.networks for row in measure(name, options)]
    last = () if options.torchcompile else ("kept", "peak")
    head = ("network", "every activation", "memory", "ms", "ratio", "interval", "target", *last)
    text = [
        f"# Training steps with learned activations{', compiled' if options.torchcompile else ''}",
        "",
        paragraph(
            "Forward, backward and SGD with momentum, in float32"
            f"{', channels_last' if options.channels_last else ''}. Processor time of one thread, with"
            f" {memory_in_words()}; the ratio is to the mean of the steps of the network as it is just before and"
            f" after, median and 95 % bootstrap interval of {options.rounds} rounds."
            f" {COMPILED if options.torchcompile else KEPT} A ViT has GELUs."
        ),
        "",
        *markdown_table(head, [cells(row) for row in rows]),
        "",
        *conditions(command_line(parser, options, "training_step"), 0),
        "",
    ]  # fmt: skip
    file = write_results(options.results, options.name, text, rows)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
