"""Where do ReLUs lose units? HeLU beside ReLU, and a ReLU in place of the softmax's scores, in a small perceptron.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.rectifiers --protocol reduced

Sources: Kimhi et al. 2024, arXiv 2411.10573 (HeLU); Agarap 2018, arXiv 1803.08375 (ReLU as the classifier).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import pruning
import surgery
from benchmarks.conditions import markdown_table, paragraph
from benchmarks.plain_loop import accuracy
from benchmarks.studies.jobs import Row, Write, by_name
from benchmarks.studies.perceptron import HIDDEN, Draw, Function, Size, perceptron, small_images, trained
from benchmarks.studies.results import Question, Results
from benchmarks.studies.spread import difference, spread
from benchmarks.studies.study import Study

RATES = (0.06, 0.2, 0.6)
LOOKS = (1, 2, 5, 10, 15, 20, 25, 50, 100)  # epochs after which networks are looked at, and at the end


@dataclass(frozen=True)
class Arm:
    """A perceptron with a function, or with another reading of its scores."""

    about: str
    function: Function
    control: str = ""
    fresh: bool = True


ARMS = {
    "relu": Arm("ReLU, softmax cross-entropy", Function()),
    "helu": Arm("HeLU, alpha 0.05 as published", Function(surgery.swap("helu")), control="relu"),
    "helu-0.5": Arm("HeLU, alpha 0.5", Function(surgery.swap("helu", alpha=0.5)), control="relu"),
    "scores": Arm(
        "ReLU also behind the classifier, softmax cross-entropy of that", Function(surgery.rectify_scores("scores")),
        control="relu",
    ),
    "shares": Arm(
        "the same, cross-entropy of the shares of the rectified scores", Function(surgery.rectify_scores("shares")),
        control="relu",
    ),
}  # fmt: skip
PROTOCOLS = by_name(
    Size("smoke", images=128, held_out=32, test_images=100, epochs=1, networks=1, seeds=1),
    Size("reduced", images=4000, held_out=1000, test_images=3000, epochs=25, networks=1, seeds=3),
    Size("full", images=40_000, held_out=10_000, test_images=10_000, epochs=100, networks=1, seeds=5),
)


def measure(arm: Arm, seed: int, size: Size, device: str, write: Write) -> None:
    """Train a network with each learning rate, and write a row after some of the epochs."""
    images, model = small_images(size), perceptron(arm.function, small_images(size).train).to(device)
    learnt, held_out, test = (part.to(device) for part in (images.train, images.held_out, images.test))
    batches = learnt.images.split(1000)

    for rate in RATES:

        def look(epoch: int, network: nn.Module, rate: float = rate) -> None:
            if epoch in LOOKS or epoch == size.epochs:
                write({
                    "rate": rate, "epoch": epoch, "held_out": accuracy(network, held_out),
                    "accuracy": accuracy(network, test), "dead": pruning.dead_neurons(network, batches).dynamic_share,
                    "unpredicted": unpredicted(network, test.images, int(test.labels.max()) + 1),
                })  # fmt: skip

        trained(model, learnt, Draw(seed, seed), rate, size.epochs, look)


@torch.no_grad()
def unpredicted(model: nn.Module, images: Tensor, classes: int) -> float:
    """The share of the classes that no image is taken for."""
    was_training = model.training
    predicted = model.eval()(images).argmax(1).unique()
    model.train(was_training)
    return 1 - len(predicted) / classes


def tables(size: Size, results: Results) -> list[str]:
    """Every arm at its best learning rate, and at each of them."""
    return [
        paragraph(
            f"A perceptron with two hidden layers of {HIDDEN} units, trained for {size.epochs} epochs on"
            f" {size.images:,} images of 8 x 8 pixels; accuracy on {size.test_images:,} test images, in percent, with"
            f" the standard deviation over seeds, at the learning rate that is best on {size.held_out:,} others;"
            " difference to the control in points, paired by seed, with its 95 % interval; hidden units that no"
            " training image activates, and classes that no test image is taken for, in percent."
        ),
        "",
        *_best_table(results),
        "",
        paragraph("Accuracy / dead units at the end, by the learning rate:"),
        "",
        *_rates_table(results),
    ]


def ended(rate: float, figure: str) -> Question:
    """The figure at the end of the training with this learning rate."""

    def read(rows: Sequence[Row]) -> float:
        return [row.figures[figure] for row in rows if row.figures["rate"] == rate][-1]

    return read


def best(results: Results, arm: str) -> float:
    """The learning rate with the highest accuracy on the images held out, as a mean over seeds."""
    return max(RATES, key=lambda rate: fmean(results.of(arm, ended(rate, "held_out")).values()))


def _best_table(results: Results) -> list[str]:
    cells = []
    for name in results:
        rate = best(results, name)
        ours = {figure: results.of(name, ended(rate, figure)) for figure in ("accuracy", "dead", "unpredicted")}
        control = results.arms[name].control
        apart = _apart(results, name, control) if control in results else ""
        cells.append((
            name, f"{rate:g}", spread(ours["accuracy"].values(), digits=1), apart,
            *(spread(ours[figure].values(), digits=1) for figure in ("dead", "unpredicted")), str(results.seeds(name)),
        ))  # fmt: skip
    return markdown_table(("arm", "rate", "accuracy", "- ReLU", "dead units", "classes not predicted", "seeds"), cells)


def _apart(results: Results, arm: str, control: str) -> str:
    """The difference of two arms, each at its best learning rate."""
    ours, theirs = (results.of(name, ended(best(results, name), "accuracy")) for name in (arm, control))
    return str(difference(ours, theirs) or "")


def _rates_table(results: Results) -> list[str]:
    def cell(name: str, rate: float) -> str:
        return " / ".join(
            f"{100 * fmean(results.of(name, ended(rate, figure)).values()):.1f}" for figure in ("accuracy", "dead")
        )

    cells = [(name, *(cell(name, rate) for rate in RATES)) for name in results]
    return markdown_table(("arm", *(f"{rate:g}" for rate in RATES)), cells)


def draw(results: Results) -> Figure:
    """Dead units and accuracy by epoch, a line for each arm and the two larger learning rates."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(results):
        for rate, style in zip(RATES[1:], ("-", "--"), strict=True):
            _curve(left, results, name, rate, "dead", color=f"C{number}", linestyle=style)
            _curve(right, results, name, rate, "accuracy", color=f"C{number}", linestyle=style)
    left.set_ylabel("dead units, %")
    right.set_ylabel("test accuracy, %")
    for axes in (left, right):
        axes.set_xlabel("epochs")
        axes.grid(alpha=0.3)
    right.legend(fontsize=8)
    return figure


def _curve(axes: Axes, results: Results, arm: str, rate: float, figure: str, **style: Any) -> None:
    """The mean over seeds, by epoch."""
    found: dict[float, list[float]] = {}
    for rows in results.rows[arm].values():
        for row in rows:
            if row.figures["rate"] == rate:
                found.setdefault(row.figures["epoch"], []).append(100 * row.figures[figure])
    axes.plot(
        list(found), [fmean(values) for values in found.values()], linewidth=1.2, label=f"{arm}, {rate:g}", **style
    )


STUDY = Study(
    "rectifiers", "ReLUs and the units they lose (perceptron, CIFAR-10)", "benchmarks.studies.rectifiers", ARMS,
    PROTOCOLS, measure, tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
