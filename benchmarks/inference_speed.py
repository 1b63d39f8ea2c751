"""Inference in eager mode of a network with learned activations, next to the network as it is.

GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295 python -m benchmarks.inference_speed
"""

from __future__ import annotations

import argparse
import statistics
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

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
from recipes.models.build import build
from surgery.activations.functions.pwlu import PWLU

FUNCTIONS = ("pwlu", "prelu", "frelu", "smelu", "swish")
TARGETS = {"pwlu, folded": 1.05, "prelu": 1.05, "frelu": 1.05}
OUT_OF_PLACE = "ReLU, not in place"


@dataclass(frozen=True)
class Row:
    """A network with one function, relative to the network as it is."""

    network: str
    function: str
    images: int
    milliseconds: float
    ratio: float
    low: float
    high: float


def arms(name: str, functions: list[str], image: Tensor) -> dict[str, nn.Module]:
    """The network as it is, and with every activation swapped."""
    plain = build(name).eval()
    found: dict[str, nn.Module] = {"as it is": plain, OUT_OF_PLACE: deepcopy(plain)}
    for module in found[OUT_OF_PLACE].modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for function in functions:
        found[function] = surgery.transform(plain, surgery.swap(function), image)[0].eval()
        if function == "pwlu":
            found["pwlu, folded"] = folded(found[function])
    return found


def folded(network: nn.Module) -> nn.Module:
    """A copy in which every PWLU is folded."""
    network = deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PWLU):
                setattr(parent, name, child.folded())
    return network


def seconds(network: nn.Module, images: Tensor, repeats: int) -> float:
    """The processor time of some forward passes, which other processes hardly lengthen."""
    started = time.process_time()
    for _ in range(repeats):
        network(images)
    return (time.process_time() - started) / repeats


@torch.inference_mode()
def measure(options: argparse.Namespace) -> list[Row]:
    """In each round every network has its turn between two of the plain one."""
    torch.manual_seed(0)
    images = torch.randn(options.batch_size, 3, options.pixels, options.pixels)
    with torch.inference_mode(False):
        networks = arms(options.network, options.functions, images[:1].clone())
    plain = networks["as it is"]
    for network in networks.values():
        network(images), network(images)
    times: dict[str, list[float]] = {arm: [] for arm in networks}
    ratios: dict[str, list[float]] = {arm: [] for arm in networks}
    before = seconds(plain, images, options.repeats)
    for _ in range(options.rounds):
        for arm, network in networks.items():
            spent = seconds(network, images, options.repeats)
            after = seconds(plain, images, options.repeats)
            times[arm].append(spent)
            ratios[arm].append(2 * spent / (before + after))
            before = after
    return [
        Row(options.network, arm, options.batch_size, 1e3 * statistics.median(times[arm]), *interval(ratios[arm]))
        for arm in networks
    ]


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    limit = TARGETS.get(row.function)
    verdict = "" if limit is None else f"{limit}, {'met' if row.ratio <= limit else 'missed'}"
    return (
        row.network, row.function, str(row.images), f"{row.milliseconds:.1f}", f"**{row.ratio:.3f}**",
        f"{row.low:.3f} to {row.high:.3f}", verdict,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="torchvision/resnet18")
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2, help="forward passes that are timed together")
    parser.add_argument("--name", default="inference_speed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options)
    head = ("network", "every activation", "images", "ms", "ratio", "interval", "target")
    text = [
        "# Inference with learned activations, eager",
        "",
        paragraph(
            f"Forward passes in float32 at {options.pixels} pixels. Processor time of one thread, with"
            f" {memory_in_words()}; the ratio is to the mean of the network as it is just before and after, median and"
            f" 95 % bootstrap interval of {options.rounds} rounds."
        ),
        "",
        *markdown_table(head, [cells(row) for row in rows]),
        "",
        *conditions(command_line(parser, options, "inference_speed"), 0),
        "",
    ]
    file = write_results(options.results, options.name, text, rows)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
