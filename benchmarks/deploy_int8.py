"""What an activation costs in a network that ONNX Runtime computes in 8 bits: time, and what quantising changes.

Needs the folder that SURGERY_DATA names, as `benchmarks.imagenet_pretrained` does. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.deploy_int8
"""

from __future__ import annotations

import argparse
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
from benchmarks.imagenet_pretrained import KNOWN, NAME, Pictures, halves, trained
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import FILE, TARGET, quantize
from surgery.deploy.written import written

FUNCTIONS = (
    "relu6", "relu", "leaky_relu", "prelu", "frelu", "hardswish", "silu", "swish", "gelu", "mish", "smelu", "pwlu",
)  # fmt: skip
TRAINED = ("relu6", "relu", "pwlu")  # with other functions the weights would have to learn first


@dataclass(frozen=True)
class Row:
    """One network in float32 and in int8: its times, how often both say the same, and what it gets right."""

    function: str
    fp32_ms: float
    int8_ms: float
    agreement: float
    divergence: float
    fp32_right: int
    int8_right: int


def scores(run: Callable[[Any], Any], pictures: Pictures) -> Tensor:
    """The scores of a session, image by image."""
    return torch.cat([torch.from_numpy(run(image.contiguous().numpy())[0]) for image in pictures.images.split(1)])


def row(function: str, model: nn.Module, odd: Pictures, even: Pictures, calibrating: int, turns: int) -> Row:
    """Swap, export, quantise, run."""
    edited = model
    if function != "relu6":
        edited, _ = surgery.transform(model, surgery.swap(function), odd.images[:8].contiguous())
    image = even.images[:1].contiguous()
    with TemporaryDirectory() as scratch, written(network_of(edited, image), TARGET, Path(scratch, "net")) as files:
        plain = session(files.folder / FILE)
        before = scores(plain, even)
        quantize(files.network, files.folder, [[chosen.contiguous()] for chosen in odd.images[:calibrating].split(1)])
        small = session(files.folder / FILE)
        after = scores(small, even)
        times = fastest({"fp32": plain, "int8": small}, image, turns)
    divergence = (before.softmax(1) * (before.log_softmax(1) - after.log_softmax(1))).sum(1).mean()
    right = [int((found.argmax(1) == even.labels).sum()) for found in (before, after)]
    same = float((before.argmax(1) == after.argmax(1)).double().mean())
    made = Row(function, times["fp32"], times["int8"], same, float(divergence), *right)
    print(made, flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--images", type=int, help="of the 1,000 (default: all)")
    parser.add_argument("--calibrating", type=int, default=200, help="images of odd rank to calibrate on")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = trained()
    odd, even = halves(model, options.images)
    rows = [row(name, model, odd, even, options.calibrating, options.turns) for name in options.functions]
    if options.images is None and "relu6" in options.functions:
        assert rows[options.functions.index("relu6")].fp32_right == KNOWN, "a wrong model, or wrong data"
    base = rows[0]
    count = len(even.labels)
    text = [
        f"# Activations of {NAME} in int8",
        "",
        paragraph(
            f"ONNX Runtime, one thread, batch 1 at 224 pixels, milliseconds of processor time, the minimum of "
            f"{options.turns}; unsigned activations, weights per channel, calibrated on "
            f"{len(odd.labels[: options.calibrating])} images of odd rank. Agreement (the same class first) and "
            "Kullback-Leibler divergence are those of int8 from "
            f"float32 of the same network, on {count} images of even rank; other functions than ReLU6 take its place "
            "without training, so only ReLU6, ReLU and PWLU, which starts as ReLU6, have an accuracy."
        ),
        "",
        *markdown_table(
            ("function", "fp32 ms", "int8 ms", "int8 ratio", "agreement", "KL", "top-1 fp32", "top-1 int8"),
            [
                (found.function, f"{found.fp32_ms:.1f}", f"{found.int8_ms:.1f}", f"{found.int8_ms / base.int8_ms:.2f}",
                 f"{100 * found.agreement:.1f} %", f"{found.divergence:.4f}",
                 *(f"{100 * right / count:.1f}" if found.function in TRAINED else "-"
                   for right in (found.fp32_right, found.int8_right)))
                for found in rows
            ],
        ),
        "",
        *conditions(command_line(parser, options, "deploy_int8"), seed=0),
        "",
    ]  # fmt: skip
    print(write_results(options.results, "deploy_int8", text, rows))
    print("\n".join(text))


if __name__ == "__main__":
    main()
