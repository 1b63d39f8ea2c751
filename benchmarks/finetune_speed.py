"""Images per second of `recipes.train.finetune` and of a bare PyTorch loop with the same network. From the root:

python -m benchmarks.finetune_speed
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.bootstrap import with_interval
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph
from recipes.data import DEVIATION, MEAN, MemoryFeed, Pictures
from recipes.data.feed import ImageTransform
from recipes.format.settings import Finetune
from recipes.models.build import build
from recipes.train.finetune import finetune

SIDE, CLASSES = 32, 10
Batches = Iterator[tuple[Tensor, Tensor]]


class OneByOne(Dataset[tuple[Tensor, int]]):
    """The same images, one by one through torchvision's transforms, as most loops read them."""

    def __init__(self, pictures: Pictures) -> None:
        self.images, self.labels = pictures.images.cpu(), pictures.labels.tolist()
        self.change = v2.Compose([
            v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.images[index]), self.labels[index]


def bare(model: nn.Module, options: Finetune, steps: int, batches: Batches) -> None:
    """The same training as `finetune` with these options, as a plain loop."""
    optimizer = torch.optim.SGD(
        model.parameters(), options.lr, momentum=options.momentum, nesterov=True, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()


def ways(options: Finetune, images: int, device: str) -> dict[str, Callable[[], object]]:
    """An epoch in each way, from the same weights; the first is the reference."""
    torch.manual_seed(0)
    pictures = Pictures(
        torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8), torch.randint(CLASSES, (images,))
    ).to(device)
    feed = MemoryFeed(pictures, ImageTransform(SIDE), options)
    loader = DataLoader(OneByOne(pictures), options.batch_size, shuffle=True, drop_last=True)
    fresh = build("cifar/resnet20").to(device)
    if options.channels_last:
        fresh.to(memory_format=torch.channels_last)

    def laid(batches: Batches) -> Batches:
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        return ((images.to(device, memory_format=layout), labels.to(device)) for images, labels in batches)

    return {
        "bare loop, same batches": lambda: bare(deepcopy(fresh), options, feed.steps, laid(feed.epoch(0))),
        "`recipes.train.finetune`": lambda: finetune(deepcopy(fresh), feed, options),
        "bare loop, DataLoader and torchvision's transforms": lambda: bare(
            deepcopy(fresh), options, feed.steps, laid(iter(loader))
        ),
    }


def measure(listed: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of an epoch in each round; the ways alternate, each first equally often."""
    # On the CPU this is process time, which other processes do not lengthen.
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    times: dict[str, list[float]] = {name: [] for name in listed}
    names = list(listed)
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = clock()
            listed[name]()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn >= 0:  # the round before is a warm-up
                times[name].append(clock() - started)
        print(f"round {turn + 1}", flush=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()
    training = Finetune(epochs=1, batch_size=options.batch_size, channels_last=options.channels_last)
    times = measure(ways(training, options.images, options.device), options.rounds, options.device)
    first = next(iter(times.values()))
    rows = [
        (name, f"{options.images / statistics.median(found):.0f}",
         "1" if found is first else with_interval([theirs / ours for theirs, ours in zip(first, found, strict=True)]))
        for name, found in times.items()
    ]  # fmt: skip
    kind = options.device.partition(":")[0]
    text = [
        f"# Speed of fine-tuning ResNet-20 ({'GPU' if kind == 'cuda' else 'processor'})",
        "",
        paragraph(
            f"Epochs of {options.images:,} images of 32 x 32 pixels in batches of {options.batch_size}, fp32"
            f"{', channels_last' if options.channels_last else ''}, SGD with momentum, shifts and mirroring."
            f" {options.rounds} rounds, in which the ways take turns; images a second of"
            f" {'wall' if kind == 'cuda' else 'processor'} time. The ratio to the first way is the median over rounds,"
            " with its 95 % bootstrap interval; above 1 is faster."
        ),
        "",
        *markdown_table(("way", "images/s", "ratio"), rows),
        "",
        *conditions(command_line(parser, options, "finetune_speed"), 0, options.device),
        "",
    ]
    file = options.results / ("finetune_speed_gpu.md" if kind == "cuda" else "finetune_speed.md")
    file.write_text("\n".join(text), encoding="utf-8")
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
