"""Studies of one training: how a network is edited in each arm, and its accuracy in the training that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from benchmarks.conditions import markdown_table, paragraph
from benchmarks.studies.cost import kept_ratio, step_ratio
from benchmarks.studies.jobs import Protocol, Write
from benchmarks.studies.networks import Network
from benchmarks.studies.plots import Curve, drawn
from benchmarks.studies.results import Results, at
from benchmarks.studies.spread import spread
from recipes.data import open_data
from recipes.train.finetune import finetune
from surgery.errors import SurgeryError
from surgery.model import in_eval

FITTED_ON = 8  # batches, for affine stand-ins


@dataclass(frozen=True)
class Arm:
    """An edit of a network, and the arm it is compared with ("": it is a control itself).

    `fresh`: from fresh weights. `distill`: it learns from the network as it was before surgery, too.
    """

    about: str
    rule: surgery.Rule | None = None
    fresh: bool = False
    distill: bool = False
    control: str = ""


def measure(network: Network, arm: Arm, seed: int, protocol: Protocol, device: str, write: Write) -> None:
    """Run an arm with a seed: a row after the surgery, and one after every epoch.

    The seed determines the order of the images, their augmentation, and random weights. The first row has the time and
    the memory of a training step, relative to the network before surgery. If a training diverges, its last row
    measures the network at that point.
    """
    data = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
    plain = network.build(seed, fresh=arm.fresh).to(device)
    options = replace(network.options(protocol, fresh=arm.fresh), distill=arm.distill)
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    feed = data.training(options, seed=seed, device=device)
    model = deepcopy(plain)
    batches = [images for images, _ in islice(feed.epoch(0), FITTED_ON)]
    if arm.rule is not None:
        surgery.transform_(model, arm.rule, batches[0][:2])
        if arm.rule.make == "affine":
            surgery.fit_affine(model, batches)
    images, labels = next(feed.epoch(0))
    images = images.to(memory_format=layout)
    for net in (model, plain):
        net.to(memory_format=layout)
    time, memory = step_ratio(model, plain, images, labels), kept_ratio(model, plain, images)
    epochs = _Epochs(write, model, data.testing(device=device))
    epochs.write(math.nan, time, memory)
    try:
        finetune(model, feed, options, teacher=plain.eval() if arm.distill else None, seed=seed, journal=epochs)
    except SurgeryError:
        if model.train()(images).isfinite().all():
            raise
        epochs.epoch({"loss": math.nan})  # it diverged: that is the result of the arm


class _Epochs:
    """A journal that tests the model after every epoch."""

    def __init__(self, write: Write, model: nn.Module, test: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._write, self._model, self._test, self._epoch = write, model, test, 0

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        """A training begins."""

    def step(self, loss: float | None, images: int) -> None:
        """A step was made."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over."""
        self._epoch += 1
        self.write(row["loss"])

    def write(self, loss: float, time: float = math.nan, memory: float = math.nan) -> None:
        """Test the model, and write a row."""
        test_loss, accuracy = _test(self._model, self._test)
        self._write({
            "epoch": self._epoch, "accuracy": accuracy, "test_loss": test_loss, "loss": loss, "step_time": time,
            "step_memory": memory,
        })  # fmt: skip


def _test(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in eval mode."""
    losses, right = list[Tensor](), list[Tensor]()
    with in_eval(model):
        for images, labels in batches:
            logits = model(images)
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            right.append(logits.argmax(dim=1) == labels)
    return torch.cat(losses).double().mean().item(), torch.cat(right).double().mean().item()


def tables(protocol: Protocol, results: Results) -> list[str]:
    """Accuracy right after surgery and at the end, each arm's difference to its control, and what a step costs."""
    head = (
        "arm", "after surgery", "test accuracy", "test loss", "control", "difference", "step time", "memory", "seeds",
    )  # fmt: skip
    cells = []
    for arm in results:
        accuracies = [spread(results.of(arm, at(k, "accuracy")).values()) for k in (0, -1)]
        loss = spread(results.of(arm, at(-1, "test_loss")).values(), scale=1, digits=3)
        apart = results.compared(arm, at(-1, "accuracy"))
        compared = "" if apart is None else str(apart)
        cost = [f"{fmean(results.of(arm, at(0, name)).values()):.2f}" for name in ("step_time", "step_memory")]
        cells.append((arm, *accuracies, loss, results.arms[arm].control, compared, *cost, str(results.seeds(arm))))
    return [
        paragraph(
            f"Training: {protocol.trainings(results.starts())}; {protocol.test_images:,} test images. Accuracy in"
            " percent: mean and standard deviation over seeds, which decide on the order of the images, their"
            " augmentation, and fresh weights. The difference to the control in points, paired by seed, with its 95 %"
            " confidence interval, for each arm alone. Time of a training step (forward and backward, fp32), and bytes"
            " kept for the backward pass, over those of the network before surgery; times of equal work differ by a"
            " tenth."
        ),
        "",
        *markdown_table(head, cells),
    ]


def draw(results: Results) -> Figure:
    """Accuracy by epoch, and the differences at the end."""
    curves = {
        arm: Curve(
            [row.figures["epoch"] for row in next(iter(seeds.values()))],
            [[row.figures["accuracy"] for row in rows] for rows in seeds.values()],
        )
        for arm, seeds in results.rows.items()
    }
    apart = results.differences(at(-1, "accuracy"))
    return drawn(curves, "epochs after surgery", apart, "points of accuracy at the end")
