"""The time that held masks add to a training step of ResNet-50, and that of the published way. From the root:

GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295 python -m benchmarks.mask_overhead

With the default settings of the allocator, a step on the CPU returns memory and requests it again; how much depends on
other live tensors, here the masks, and takes longer than what is measured.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy
import torch
from torch import nn
from torchvision.models import resnet50

from benchmarks.bootstrap import interval
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table
from pruning.masks.masks import Masks

PRUNED = 0.8
LIMITS = {"cpu": 1.03, "cuda": 1.01}  # of the ratio to the step without masks


class Training:
    """A typical training step: ResNet-50, SGD with momentum, a batch of random images."""

    def __init__(self, device: str, batch: int, side: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.fast = device.startswith("cuda")
        form = torch.channels_last if self.fast else torch.contiguous_format
        self.model: nn.Module = resnet50(weights=None).to(device, memory_format=form).train()
        self.images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=form)
        self.labels = torch.randint(0, 1000, (batch,), device=device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.masks = Masks({
            name: torch.rand(mask.shape, device=device) >= PRUNED for name, mask in Masks.full(self.model).items()
        })  # fmt: skip

    def step(self, before_update: Callable[[nn.Module], None] = lambda model: None) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if self.fast else nullcontext():
            loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        before_update(self.model)
        self.optimizer.step()

    def seconds(self, steps: int, before_update: Callable[[nn.Module], None] = lambda model: None) -> float:
        # Process time, which other processes do not lengthen.
        clock = time.perf_counter if self.fast else time.process_time
        self.step(before_update)  # entering allocates memory and empties caches: a step to warm up
        self._wait()
        started = clock()
        for _ in range(steps):
            self.step(before_update)
        self._wait()
        return (clock() - started) / steps

    def _wait(self) -> None:
        if self.fast:
            torch.cuda.synchronize()


def freeze_through_numpy(model: nn.Module) -> None:
    """The published way, between the backward pass and the step: no gradient where a weight is zero.

    Every weight and every gradient goes to numpy and the gradient back, for all parameters named weight, norms too.
    Source: the script released with Activate-while-Pruning, as described; written anew. It does not hold: momentum
    moves the zeros.
    """
    for name, param in model.named_parameters():
        if "weight" in name and param.grad is not None:
            weight, gradient = param.data.cpu().numpy(), param.grad.data.cpu().numpy()
            frozen = numpy.where(weight == 0, 0, gradient)
            param.grad.data = torch.from_numpy(frozen).to(param.device)


def measure(training: Training, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step in each round; plain, held and published alternate, each first equally often."""
    times: dict[str, list[float]] = {"plain": [], "held": [], "published": []}

    def timed(way: str) -> float:
        if way == "published":
            return training.seconds(steps, freeze_through_numpy)
        # Entering and leaving happens once per training, not per step, so it is not timed.
        with training.masks.held(training.model, training.optimizer) if way == "held" else nullcontext():
            return training.seconds(steps)

    for way in times:
        timed(way)  # warm-up
    with training.masks.held(training.model, training.optimizer):
        training.step()
    _check_zeros(training)
    order = list(times)
    for turn in range(rounds):
        for way in order[turn % 3 :] + order[: turn % 3]:
            times[way].append(timed(way))
        print(" ".join(f"{way} {found[-1] * 1e3:.1f} ms" for way, found in times.items()), flush=True)
    return times


def _check_zeros(training: Training) -> None:
    named = dict(training.model.named_parameters())
    for name, mask in training.masks.items():
        assert not named[name].detach()[~mask].any(), f"{name} is not held"


def write(times: dict[str, list[float]], options: argparse.Namespace, command: str) -> Path:
    """Write the table as Markdown; return its path."""
    kind = options.device.partition(":")[0]
    names = {"plain": "no masks", "held": "`masks.held`", "published": "published: gradients through numpy"}
    rows = []
    for way, found in times.items():
        ratio, low, high = interval([seconds / plain for seconds, plain in zip(found, times["plain"], strict=True)])
        cells = ("1", "") if way == "plain" else (f"{ratio:.4f}", f"{low:.4f} to {high:.4f}")
        limit = f"{LIMITS[kind]:.2f}" if way == "held" else ""
        rows.append((names[way], f"{statistics.median(found) * 1e3:.2f}", *cells, limit))
    how = "channels_last, bf16 autocast" if kind == "cuda" else "fp32"
    clock = "on the wall" if kind == "cuda" else "of the processor, all threads together"
    each = "one step" if options.steps == 1 else f"{options.steps} steps"
    text = [
        f"# Held masks on a training step of ResNet-50 ({'GPU' if kind == 'cuda' else 'processor'})",
        "",
        f"Batch {options.batch} at {options.side} px, {how}, SGD with momentum 0.9 and weight decay 1e-4,",
        f"{PRUNED:.0%} of the weights pruned. {options.rounds} rounds of {each} each way, in turns; times are {clock};",
        "ratios are within a round: their median, and the 95 % interval of the median (bootstrap).",
        "",
        *markdown_table(("way", "ms a step", "ratio", "interval", "limit"), rows),
        "",
        "The published way keeps no zeros where there is momentum: only its time is compared.",
        f"Allocator: {os.environ.get('GLIBC_TUNABLES', 'its own settings')}.",
        "",
        *conditions(command, options.seed, options.device),
        "",
    ]
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("mask_overhead_gpu.md" if kind == "cuda" else "mask_overhead.md")
    file.write_text("\n".join(text), encoding="utf-8")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="default: 8, on a GPU 64")
    parser.add_argument("--side", type=int, help="of a picture, in pixels; default: 96, on a GPU 224")
    parser.add_argument("--rounds", type=int, help="default: 30, on a GPU 60")
    parser.add_argument("--steps", type=int, help="a round; default: 2, on a GPU 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    command = command_line(parser, options, "mask_overhead")
    gpu = options.device.startswith("cuda")
    for key, small, large in (("batch", 8, 64), ("side", 96, 224), ("rounds", 30, 60), ("steps", 2, 10)):
        if getattr(options, key) is None:
            setattr(options, key, large if gpu else small)
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        command = f"GLIBC_TUNABLES={tunables} {command}"
    times = measure(Training(options.device, options.batch, options.side, options.seed), options.rounds, options.steps)
    file = write(times, options, command)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
