"""The time that a dead-neuron meter adds to a training step of torchvision's ResNet-50. From the root:

python -m benchmarks.meter_overhead
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.models import resnet50

from benchmarks.bootstrap import with_interval
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table
from pruning.dead.meter import DeadNeuronMeter

EVERY = 50
MOST = 1.05  # the largest acceptable ratio of a step with the meter to one without

Rounds = list[tuple[float, float, float]]  # seconds of a step without meter, with it, and with a measurement


def measured(batch: int, pixels: int, rounds: int, device: str) -> tuple[Rounds, float]:
    """Seconds of the three kinds of steps in every round, and of finding the calls once."""
    torch.manual_seed(0)
    model = resnet50(weights=None).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.rand(batch, 3, pixels, pixels, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    # On the CPU this is process time, which other processes do not lengthen.
    clock = time.perf_counter if device.startswith("cuda") else time.process_time

    def seconds(call: Callable[[], None]) -> float:
        started = clock()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - started

    meter = DeadNeuronMeter(model, every=2)  # measured and not, alternately
    for _ in range(2):
        step()
    with meter:
        first = seconds(step)
        step()
    times: Rounds = []
    for turn in range(rounds):
        bare = [seconds(step)] if turn % 2 else []
        with meter:
            looked = seconds(step)
            passed = seconds(step)
        bare += [] if turn % 2 else [seconds(step)]
        times.append((bare[0], passed, looked))
        print(f"round {turn + 1}: {bare[0]:.3f} bare, {passed:.3f} metered, {looked:.3f} looked into", flush=True)
    assert meter.rates().samples == batch * (rounds + 1), "not the steps that were to be looked into"
    return times, first - statistics.median(looked for *_, looked in times)


def ratio(times: Rounds, every: int = EVERY) -> float:
    """The ratio of a training step with the meter to one without, by medians; every `every`-th step is measured."""
    bare, passed, looked = (statistics.median(column) for column in zip(*times, strict=True))
    return ((every - 1) * passed + looked) / (every * bare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of three steps each (default: 30)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times, first = measured(options.batch_size, options.pixels, options.rounds, options.device)
    rows: list[tuple[str, ...]] = [
        ("a step that is not looked into", with_interval(times, lambda some: ratio(some, 10**9))),
        ("a step that is looked into", with_interval(times, lambda some: ratio(some, 1))),
        (f"the mean step, every {EVERY}th looked into", with_interval(times, ratio)),
    ]
    bare = statistics.median(step for step, *_ in times)
    clock = "Time" if options.device.startswith("cuda") else "Processor time"
    command = command_line(parser, options, "meter_overhead")
    text = [
        "# Cost of the dead-neuron meter in the training of torchvision's ResNet-50",
        "",
        f"{clock} of a training step over that of one without the meter: medians, and their 95 % bootstrap",
        f"intervals, over {options.rounds} rounds in which the three kinds of steps take turns. Forward, backward, SGD",
        "with momentum;",
        f"batch {options.batch_size} at {options.pixels} pixels; a bare step takes {bare:.3f} s. The mean step is the",
        f"weighted mean of the first two; at most {MOST} is wanted. Finding the calls of the model, once per meter,",
        f"took {first:.1f} s more and is not in it.",
        "",
        *markdown_table(("step", "ratio"), rows),
        "",
        *conditions(command, seed=0, device=options.device),
        "",
    ]
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meter_overhead.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
