"""What `surgery.simplify` saves in ONNX Runtime, and what it costs: a trained ResNet with PWLUs, fine-tuned first.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.simplify_table --depth 20
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from benchmarks.deploy_speed import fastest, session
from benchmarks.erase_pretrained import KNOWN
from benchmarks.plain_loop import train
from recipes.data import Pictures, cifar10, crop_and_flip, normalise, shared_folder
from recipes.models.build import build
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import FILE, TARGET
from surgery.deploy.written import written

RELU, PWLU = "ReLU, as published", "PWLU, fine-tuned"


@dataclass(frozen=True)
class Row:
    """One network: what its functions are, what its file has, and its distance to the network with PWLUs."""

    network: str
    functions: str
    operators: int
    nodes: int
    milliseconds: float
    ratio: float
    kl: float
    accuracy: float


@dataclass(frozen=True)
class Made:
    """A network, what its functions are in words, and the operators of these."""

    model: nn.Module
    functions: str
    operators: int


@torch.no_grad()
def log_shares(model: nn.Module, pictures: Pictures) -> Tensor:
    return torch.cat([model(normalise(part)) for part in pictures.images.split(250)]).log_softmax(1)


def with_pwlus(relu: nn.Module, pictures: Pictures, example: Tensor, options: argparse.Namespace) -> nn.Module:
    """The network with PWLUs that start as ReLU, after a short fine-tuning of all weights."""
    edited, _ = surgery.transform(relu, surgery.swap("pwlu"), example)
    started = time.monotonic()
    train(
        edited, pictures.first(options.steps * options.batch_size), 1, lr=options.lr, batch_size=options.batch_size,
        weight_decay=0.0, augment=crop_and_flip, prepare=normalise, seed=options.seed,
    )  # fmt: skip
    print(f"fine-tuned in {time.monotonic() - started:.0f} s", flush=True)
    return edited


def networks(options: argparse.Namespace) -> tuple[dict[str, Made], Pictures]:
    """The networks of the table by name, and the test images."""
    data = cifar10(shards=("train-0",))
    assert data.train is not None and data.test is not None
    weights = shared_folder() / "weights" / f"cifar10_resnet{options.depth}.safetensors"
    relu = build(f"cifar/resnet{options.depth}", pretrained=weights).eval()
    calibration = list(normalise(data.train.images[: options.calibration_images]).split(125))
    trained = with_pwlus(relu, data.train, calibration[0][:2], options)
    sites = len(surgery.find_sites(relu, calibration[0][:2]))
    made = {RELU: Made(relu, f"{sites} relu", sites), PWLU: Made(trained, f"{sites} pwlu", 0)}
    for tolerance in options.tolerances:
        started = time.monotonic()
        simplified, report = surgery.simplify(trained, calibration, tolerance)
        print(f"{tolerance:g} in {time.monotonic() - started:.0f} s\n{report}", flush=True)
        made[f"within {tolerance:g}"] = Made(simplified, in_short([call.became for call in report.calls]), report.after)
        made[PWLU] = Made(trained, made[PWLU].functions, report.before)
    return made, data.test.shuffled().first(options.test_images)


def in_short(functions: list[str]) -> str:
    """How many of each function there are; PWLUs together, with their fewest and most intervals."""
    intervals = sorted(int(name.split()[1]) for name in functions if name.startswith("pwlu"))
    counts = Counter(name for name in functions if not name.startswith("pwlu"))
    parts = [f"{count} {name}" for name, count in counts.most_common()]
    return ", ".join(parts + [f"{len(intervals)} pwlu of {intervals[0]} to {intervals[-1]}"] * bool(intervals))


def measured(made: dict[str, Made], test: Pictures, options: argparse.Namespace) -> list[Row]:
    """The rows: every network exported, timed in turns with all others, and compared with the one with PWLUs."""
    image = normalise(test.images[: options.batch])
    runs, nodes = {}, {}
    with TemporaryDirectory() as scratch:
        for number, (name, one) in enumerate(made.items()):
            with written(network_of(one.model, image), TARGET, Path(scratch, str(number))) as files:
                nodes[name] = len(files.operators)
                runs[name] = session(files.folder / FILE)
        times = fastest(runs, image, options.turns)
    before, rows = log_shares(made[PWLU].model, test), []
    for name, one in made.items():
        after = log_shares(one.model, test)
        kl = (before.exp() * (before - after)).sum(1).mean().item()
        right = (after.argmax(1) == test.labels).float().mean().item()
        ratio = times[name] / times[RELU]
        rows.append(Row(name, one.functions, one.operators, nodes[name], times[name], ratio, kl, right))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=sorted(KNOWN), default=20)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-3, 1e-2, 3e-2, 0.1])
    parser.add_argument("--steps", type=int, default=150, help="of the fine-tuning")
    parser.add_argument("--batch-size", type=int, default=64, help="of the fine-tuning")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--calibration-images", type=int, default=500)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=1, help="of the timing")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    rows = measured(*networks(options), options)
    text = [
        f"# ResNet-{options.depth} (CIFAR-10) with trained PWLUs, simplified",
        "",
        paragraph(
            f"All ReLUs became PWLUs of 16 intervals; then all weights were fine-tuned for {options.steps} steps of "
            f"{options.batch_size} images. Simplified on {options.calibration_images} training images. Operators are "
            "those of the exported functions, nodes those of the ONNX file. Milliseconds of processor time in ONNX "
            f"Runtime on one thread, batch {options.batch}, the minimum over {options.turns} turns in which every "
            "network runs once; the ratio is to the network with ReLU. Kullback-Leibler divergence from the network "
            f"with PWLUs, in nats, and accuracy on {options.test_images:,} random test images; one run."
        ),
        "",
        *markdown_table(
            ("network", "functions", "operators", "nodes", "ms", "ratio", "KL", "accuracy"),
            [
                (row.network, row.functions, str(row.operators), str(row.nodes), f"{row.milliseconds:.2f}",
                 f"{row.ratio:.2f}", f"{row.kl:.1e}", f"{row.accuracy:.1%}")
                for row in rows
            ],
        ),
        "",
        *conditions(command_line(parser, options, "simplify_table"), seed=options.seed),
        "",
    ]  # fmt: skip
    print(write_results(options.results, f"simplify_resnet{options.depth}", text, rows))
    print("\n".join(text))


if __name__ == "__main__":
    main()
