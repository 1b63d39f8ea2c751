"""Studies of rounds: a network is pruned repeatedly by the pruner of each arm, and trained in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, islice
from statistics import fmean
from typing import Any

import torch_pruning
from matplotlib.figure import Figure
from torch import Tensor, nn

import pruning
import surgery
from benchmarks.conditions import markdown_table, paragraph
from benchmarks.studies.jobs import Protocol, Row, Write
from benchmarks.studies.networks import Network
from benchmarks.studies.plots import Curve, drawn
from benchmarks.studies.results import Results, at
from benchmarks.studies.revival import revive_and_cut
from benchmarks.studies.spread import spread
from pruning.ap.choice import Choice, cut_by_ap
from pruning.hosts.torch_pruning.prune_step import step as structural_step
from pruning.masks.cut import count_of
from pruning.masks.hold_in_training import Held
from pruning.rounds.round import Pruner, Round, snapshot
from recipes.data import open_data
from recipes.train.finetune import accuracy, finetune

SHARE, AP_SHARE = 0.2, 0.02  # of the unpruned weights, per round
LOOKED_AT = 8  # training batches: for dead neurons, for AP by dead units, for the statistics of norms
METERED = 4  # of so many training steps one is looked into: of 4,096 images as many as above

CHANNELS = 0.14  # fraction that Torch-Pruning removes per round: about 18 % of the weights of ResNet-20


@dataclass(frozen=True)
class Arm:
    """A pruner, and the arm it is compared with ("": it is a control itself).

    `host` is a base pruner of `pruning`, or "torch_pruning", which removes channels. `ap` are the arguments of AP,
    which then cuts a tenth of the fraction; None: no AP. `fresh`: from random weights, to which every round rewinds.
    `erase`: the last ReLU of every block is erased first. `compensate`: the mean of what is cut goes into biases and
    the running means of norms. `recalibrate`: batch norms get new statistics after every training. `early`: AP in so
    many rounds only, the first ones; the base pruner alone cuts after them. `in_training`: dead units are those of the
    training, not of the network after it. `revive`: dead units begin anew at every cut, which global magnitude makes.
    """

    about: str
    host: str = "global_magnitude"
    ap: Mapping[str, Any] | None = None
    fresh: bool = False
    erase: bool = False
    compensate: bool = False
    recalibrate: bool = False
    early: int | None = None
    in_training: bool = False
    revive: bool = False
    control: str = ""


def measure(network: Network, arm: Arm, seed: int, protocol: Protocol, device: str, write: Write) -> None:
    """Run an arm with a seed: a row after the training before the first cut, and one after that of every round.

    All arms from trained weights start with the same ones; the seed determines the order of the images, their
    augmentation, and random weights.
    """
    data = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
    model = network.build(seed, fresh=arm.fresh).to(device)
    options = network.options(protocol, fresh=arm.fresh)
    looked_at = data.training(options, seed=seed, device=device)
    batches = [images for images, _ in islice(looked_at.epoch(0), LOOKED_AT)]
    size, number = pruning.Masks.full(model).size, count()
    if arm.erase:
        surgery.transform_(model, surgery.erase_relu(), batches[0][:2])

    meter = pruning.DeadNeuronMeter(model, METERED, inputs=True) if arm.in_training else None

    def train(model: nn.Module, held: Held) -> None:
        round_ = next(number)
        images = data.training(options, seed=100 * seed + round_, device=device)
        if meter is not None:
            meter.reset()
        with meter or nullcontext():
            finetune(model, images, options, held=held, seed=seed)
        if arm.recalibrate:
            surgery.recalibrate(model, batches)
        dead = pruning.dead_neurons(model, batches, held.masks)
        write({
            "round": round_, "living": held.masks.alive / size,
            "accuracy": accuracy(model, data.testing(device=device)), "dynamic": dead.dynamic_share,
            "static": dead.static_share, "dynamic_elements": dead.dynamic_element_share,
        })  # fmt: skip

    if arm.host == "torch_pruning":
        _structural_rounds(model, train, arm, protocol.rounds, batches, seed)
    elif arm.revive:
        _revived_rounds(model, train, protocol.rounds, batches, seed)
    else:
        pruning.run_rounds(
            model, train, _pruner(arm, batches, meter, seed), SHARE, protocol.rounds,
            rewind="init" if arm.fresh else None, compensate=batches if arm.compensate else None,
        )  # fmt: skip


def _pruner(arm: Arm, batches: Sequence[Tensor], meter: pruning.DeadNeuronMeter | None, seed: int) -> Pruner:
    host: Pruner = getattr(pruning, arm.host)()
    if arm.ap is None:
        return host
    # If too few weights keep dead units dead, the base pruner cuts the rest.
    with_ap = pruning.with_ap(
        host, AP_SHARE, **arm.ap, batches=None if meter else batches, meter=meter, seed=seed, shortfall="host"
    )
    return with_ap if arm.early is None else in_early_rounds(with_ap, host, arm.early)


def in_early_rounds(first: Pruner, then: Pruner, rounds: int) -> Pruner:
    """A pruner for so many rounds, and another one for those that follow."""
    number = count()

    def pruner(round: Round, share: float) -> pruning.Masks:
        return (first if next(number) < rounds else then)(round, share)

    return pruner


def _revived_rounds(
    model: nn.Module, train: Callable[[nn.Module, Held], object], rounds: int, batches: Sequence[Tensor], seed: int
) -> None:
    masks = pruning.Masks.full(model)
    for number in range(rounds + 1):
        train(model, Held(model, masks))
        if number < rounds:
            masks = revive_and_cut(model, masks, SHARE, batches, 100 * seed + number)
            masks.lay_over(model)


def _structural_rounds(
    model: nn.Module,
    train: Callable[[nn.Module, Held], object],
    arm: Arm,
    rounds: int,
    batches: Sequence[Tensor],
    seed: int,
) -> None:
    """Torch-Pruning removes channels, then AP cuts its share; in an arm without AP, global magnitude cuts that."""
    example = batches[0][:2]
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    host = torch_pruning.pruner.BasePruner(
        model, example, torch_pruning.importance.GroupMagnitudeImportance(), ignored_layers=heads,
        pruning_ratio=_channels_cut(rounds), iterative_steps=rounds,
        iterative_pruning_ratio_scheduler=lambda _, steps: [_channels_cut(k) for k in range(steps + 1)],
    )  # fmt: skip
    masks = pruning.Masks.full(model)
    for number in range(rounds + 1):
        before = snapshot(model)
        train(model, Held(model, masks))
        if number < rounds:
            survivors = structural_step(host, example=example)
            left = {name: survivors.of(name, weight) for name, weight in before.items()}
            round_ = Round.of(model, left, survivors.masks(masks))
            if arm.ap is None:
                masks = pruning.global_magnitude()(round_, AP_SHARE)
            else:
                masks = cut_by_ap(
                    round_, count_of(AP_SHARE, round_.masks.alive), Choice(**arm.ap, batches=batches, seed=seed)
                )
            masks.lay_over(model)


def _channels_cut(rounds: int) -> float:
    """The fraction of the channels that is removed after this number of rounds."""
    return 1 - (1 - CHANNELS) ** rounds


def tables(protocol: Protocol, results: Results) -> list[str]:
    """Accuracies by density with the difference of each arm to its control, and dead units."""
    return [
        paragraph(
            f"{protocol.rounds} rounds, each of which cuts 20 % of the unpruned weights and then trains:"
            f" {protocol.trainings(results.starts())}."
            f"{' With fresh weights every round goes back to them.' if True in results.starts() else ''} Accuracy on"
            f" {protocol.test_images:,} test images after that, by the density of the weights, in percent: mean and"
            " standard deviation over seeds, which decide on the order of the images, their augmentation, and fresh"
            " weights. Differences to the control in points, paired by seed, with 95 % confidence intervals, for each"
            " arm alone: at the end, and of the mean accuracy over all rounds."
        ),
        "",
        *_accuracy_tables(protocol, results),
        paragraph(
            f"Dead units on {LOOKED_AT} training batches, in percent: channels that are never active, although they"
            " have unpruned weights (dynamic), or have none (static); also of elements. Counted after the training"
            " before the first cut, after the first round, and at the end."
        ),
        "",
        *_dead_table(results),
    ]


def _accuracy_tables(protocol: Protocol, results: Results) -> list[str]:
    """A table for all arms with the same densities; those of structural pruning differ."""
    shown = sorted({0, *range(protocol.rounds, 0, -2)})
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for arm in results:
        densities = (fmean(results.of(arm, at(k, "living")).values()) for k in shown)
        head = (
            "arm",
            *(f"{density:.0%}" for density in densities),
            "control",
            "at the end",
            "mean over rounds",
            "seeds",
        )
        accuracies = [spread(results.of(arm, at(k, "accuracy")).values()) for k in shown]
        apart = [results.compared(arm, question) for question in (at(-1, "accuracy"), mean_accuracy)]
        compared = ["" if difference is None else str(difference) for difference in apart]
        cells = (arm, *accuracies, results.arms[arm].control, *compared, str(results.seeds(arm)))
        tables.setdefault(head, []).append(cells)
    return [line for head, rows in tables.items() for line in (*markdown_table(head, rows), "")]


_DEAD = {
    "dynamic, before": at(0, "dynamic"),
    "after a round": at(1, "dynamic"),
    "at the end": at(-1, "dynamic"),
    "elements, at the end": at(-1, "dynamic_elements"),
    "static, at the end": at(-1, "static"),
    "density": at(-1, "living"),
}


def _dead_table(results: Results) -> list[str]:
    cells = [(arm, *(spread(results.of(arm, question).values()) for question in _DEAD.values())) for arm in results]
    return markdown_table(("arm", *_DEAD), cells)


def draw(results: Results) -> Figure:
    """Accuracy by density, and the differences of the mean over all rounds."""
    curves = {
        arm: Curve(
            [100 * row.figures["living"] for row in next(iter(seeds.values()))],
            [[row.figures["accuracy"] for row in rows] for rows in seeds.values()],
        )
        for arm, seeds in results.rows.items()
    }
    apart = results.differences(mean_accuracy)
    figure = drawn(curves, "density, %", apart, "points of accuracy, mean over all rounds")
    left = figure.axes[0]
    left.set_xscale("log")
    left.invert_xaxis()
    ticks = next(iter(curves.values())).x[::2]
    left.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    left.minorticks_off()
    return figure


def mean_accuracy(rows: Sequence[Row]) -> float:
    """The mean over all rounds after the first cut."""
    return fmean(row.figures["accuracy"] for row in rows[1:])
