"""How long it takes to measure every candidate of a choice once."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import surgery
from benchmarks.budget.pictures import HELD_OUT, batched, split
from benchmarks.budget.report import Report
from benchmarks.conditions import markdown_table
from benchmarks.imagenet_pretrained import halves, trained
from recipes.data import cifar10, normalise, shared_folder
from recipes.models.build import build

LIMIT = {"ResNet-56": 10, "EfficientNet-Lite0": 15}  # minutes, without measuring again


@dataclass(frozen=True)
class Row:
    """One network: how many edits were measured on how many images, and how long that took."""

    network: str
    candidates: int
    images: int
    timing: float  # seconds until the first edit was measured
    seconds: float

    @property
    def each(self) -> float:
        return (self.seconds - self.timing) / self.candidates


class _Measured(Exception):
    """Every candidate was measured alone: what follows is not timed here."""


class Watch:
    """Listens to the progress of a choice, and stops it once every candidate was measured."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.timing = 0.0
        self.candidates = 0

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        if not line.startswith("measured alone"):
            self.timing = time.monotonic() - self.began
            return
        done, every = line.split()[2].rstrip(",:").split("/")
        self.candidates = int(every)
        if int(done) == self.candidates:
            raise _Measured


def measured(name: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]], example: Tensor) -> Row:
    watch = Watch()
    try:
        surgery.choose(model, batches, example=example, progress=watch)
    except _Measured:
        seconds = time.monotonic() - watch.began
    return Row(name, watch.candidates, sum(len(labels) for _, labels in batches), watch.timing, seconds)


def _found() -> Iterator[Row]:
    """ResNet-56 on 1,000 CIFAR-10 pictures, and EfficientNet-Lite0 on 500 of ImageNet, with the whole menu."""
    test = cifar10(shards=("train-0",)).test
    assert test is not None
    held, _ = split(test, HELD_OUT)
    small = [(normalise(part.images), part.labels) for part in batched(held, 250)]
    weights = str(shared_folder() / "weights" / "cifar10_resnet56.safetensors")
    yield measured("ResNet-56", build("cifar/resnet56", pretrained=weights).eval(), small, small[0][0][:8])
    model = trained().to(memory_format=torch.channels_last)
    odd, _ = halves(model, None)
    large = list(zip(odd.images.split(50), odd.labels.split(50), strict=True))
    yield measured("EfficientNet-Lite0", model, large, odd.images[:1])


def candidates(options: argparse.Namespace) -> Report:
    """Every edit of the whole menu once, for latency, with nothing else running."""
    torch.set_num_threads(options.threads)
    rows = list(_found())
    cells = [
        (row.network, str(row.candidates), f"{row.images:,}", f"{row.timing:.0f} s", f"{row.each:.1f} s",
         f"{row.seconds / 60:.1f} min", f"{LIMIT[row.network]} min")
        for row in rows
    ]  # fmt: skip
    about = (
        "Every candidate of the whole menu once, for latency in eager mode: blocks and calls are timed first, then "
        "each edit is measured alone on all images. Measuring again, and together, comes on top."
    )
    head = ("network", "candidates", "images", "times", "a candidate", "together", "wanted")
    return Report(about, rows, markdown_table(head, cells))
