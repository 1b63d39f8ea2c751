"""What an activation costs a deployed network: a trained ResNet-20 learns another one, and goes back to ReLU.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.deploy_cost
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from benchmarks.deploy_speed import fastest, session
from benchmarks.plain_loop import accuracy, train
from recipes.data import Pictures, cifar10, crop_and_flip, normalise, shared_folder
from recipes.models.build import build
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import FILE, TARGET, quantize
from surgery.deploy.written import written

CONTROL = "relu"
FUNCTIONS = (CONTROL, "silu", "gelu", "hardswish")
WEIGHTS = "cifar10_resnet20.safetensors"


@dataclass(frozen=True)
class Row:
    """One function: what it costs in time, what it gets right, and what the network gets right as ReLU again.

    Accuracies are shares of the test images, each in float32 and in int8 but for `swapped_back`: before training.
    """

    function: str
    fp32_ms: float
    int8_ms: float
    swapped: float
    fp32: float
    int8: float
    swapped_back: float
    back_fp32: float
    back_int8: float


@dataclass(frozen=True)
class Images:
    """What is trained, calibrated and tested on."""

    train: Pictures
    calibration: list[Tensor]
    test: Pictures


@dataclass(frozen=True)
class Deployed:
    """A network in ONNX Runtime, in float32 and in int8."""

    plain: Callable[[Any], Any]
    small: Callable[[Any], Any]
    fp32: float
    int8: float


def deployed(model: nn.Module, images: Images, folder: Path) -> Deployed:
    """Write a network, quantise it, and count what both get right."""
    example = normalise(images.test.images[:2])
    with written(network_of(model, example), TARGET, folder) as files:
        plain = session(files.folder / FILE)
        quantize(files.network, files.folder, [[image] for image in images.calibration])
        small = session(files.folder / FILE)
    return Deployed(plain, small, right(plain, images.test), right(small, images.test))


def right(run: Callable[[Any], Any], test: Pictures) -> float:
    """The accuracy of a session."""
    scores = [torch.from_numpy(run(normalise(part).numpy())[0]) for part in test.images.split(250)]
    return (torch.cat(scores).argmax(1) == test.labels).double().mean().item()


def trained(model: nn.Module, function: str, images: Images, options: argparse.Namespace) -> tuple[nn.Module, float]:
    """A copy with this function, fine-tuned, and its accuracy before that."""
    example = normalise(images.test.images[:2])
    edited = copy.deepcopy(model)
    if any(site.activation != function for site in surgery.find_sites(edited, example)):
        surgery.transform_(edited, surgery.swap(function), example)
    before = accuracy(edited, images.test, prepare=normalise)
    train(
        edited, images.train, options.epochs, lr=options.lr, batch_size=options.batch_size, augment=crop_and_flip,
        prepare=normalise, seed=options.seed,
    )  # fmt: skip
    return edited, before


def row(relu: nn.Module, function: str, images: Images, options: argparse.Namespace) -> Row:
    """Swap, fine-tune and deploy; swap back, fine-tune and deploy again."""
    there, swapped = trained(relu, function, images, options)
    back, swapped_back = trained(there, CONTROL, images, options)
    with TemporaryDirectory() as scratch:
        learned = deployed(there, images, Path(scratch, "learned"))
        returned = deployed(back, images, Path(scratch, "returned"))
    times = fastest({"fp32": learned.plain, "int8": learned.small}, normalise(images.test.images[:1]), options.turns)
    made = Row(
        function, times["fp32"], times["int8"], swapped, learned.fp32, learned.int8, swapped_back, returned.fp32,
        returned.int8,
    )  # fmt: skip
    print(made, flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--images", type=int, default=10_000, help="to fine-tune on")
    parser.add_argument("--epochs", type=int, default=3, help="of each fine-tuning")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--calibrating", type=int, default=500, help="training images to calibrate on")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    data = cifar10(shards=("train-0",))
    assert data.train is not None and data.test is not None
    images = Images(
        data.train.first(options.images),
        list(normalise(data.train.images[: options.calibrating]).split(1)),
        data.test.shuffled().first(options.test_images),
    )
    relu = build("cifar/resnet20", pretrained=shared_folder() / "weights" / WEIGHTS).eval()
    published = accuracy(relu, images.test, prepare=normalise)
    rows = [row(relu, function, images, options) for function in options.functions]
    text = [
        "# What an activation costs a deployed ResNet-20 (CIFAR-10)",
        "",
        paragraph(
            "Every ReLU of the published network was swapped for the function, all weights were fine-tuned for "
            f"{options.epochs} epochs of {len(images.train):,} images, swapped back for ReLU, and fine-tuned equally "
            f"long. Accuracies on {len(images.test):,} test images in ONNX Runtime: in float32, and in int8 (unsigned "
            f"activations, weights per channel, calibrated on {options.calibrating} training images); in brackets "
            "that before the fine-tuning, in torch. Milliseconds of processor time with the function, one thread, "
            f"batch 1, the minimum of {options.turns}. The row of ReLU is the control: the same training without a "
            f"swap. As published: {published:.1%}. One seed."
        ),
        "",
        *markdown_table(
            ("function", "fp32 ms", "int8 ms", "fp32", "int8", "as ReLU again, fp32", "int8"),
            [
                (found.function, f"{found.fp32_ms:.2f}", f"{found.int8_ms:.2f}",
                 f"{found.fp32:.1%} ({found.swapped:.1%})", f"{found.int8:.1%}",
                 f"{found.back_fp32:.1%} ({found.swapped_back:.1%})", f"{found.back_int8:.1%}")
                for found in rows
            ],
        ),
        "",
        *conditions(command_line(parser, options, "deploy_cost"), seed=options.seed),
        "",
    ]  # fmt: skip
    print(write_results(options.results, "deploy_cost", text, rows))
    print("\n".join(text))


if __name__ == "__main__":
    main()
