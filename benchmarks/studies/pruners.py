"""Which base pruner does least damage in one cut? ResNet-20 on CIFAR-10, without training after the cut.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.pruners --protocol reduced
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import islice

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import pruning
import surgery
from benchmarks.conditions import markdown_table, paragraph
from benchmarks.studies.jobs import Protocol, Write, by_name
from benchmarks.studies.networks import Network, resnet
from benchmarks.studies.plots import Curve, drawn
from benchmarks.studies.results import Results, at
from benchmarks.studies.spread import spread
from benchmarks.studies.study import Study
from pruning.masks.hold_in_training import Held
from pruning.rounds.movement import gathered
from pruning.rounds.round import Pruner, Round
from recipes.data import open_data
from recipes.train.finetune import accuracy, finetune

SHARES = (0.5, 0.7, 0.8, 0.9)  # of the weights, in one cut
LOOKED_AT = 8  # training batches: for gradients, and for the statistics of norms


@dataclass(frozen=True)
class Arm:
    """A base pruner, the largest share that its pattern allows, and the arm it is compared with."""

    about: str
    make: Callable[[], Pruner]
    most: float = 1.0
    control: str = "global_magnitude"
    fresh: bool = False


def _in_groups(n: int, m: int) -> Callable[[], Pruner]:
    return lambda: pruning.global_magnitude(within=pruning.n_of_m(n, m, elsewhere="cut"))


ARMS = {
    "global_magnitude": Arm("the smallest weights of the model", pruning.global_magnitude, control=""),
    "layer_magnitude": Arm("the smallest weights of each layer", pruning.layer_magnitude),
    "lamp": Arm("the lowest LAMP scores: magnitude beside what is larger in its layer", pruning.lamp),
    "lookahead": Arm("the lowest products with the norms of neighbouring layers", pruning.lookahead),
    "global_gradient": Arm("the lowest weight times gradient", pruning.global_gradient),
    "snip": Arm("the lowest absolute weight times gradient, as SNIP", pruning.snip),
    "movement": Arm("those that moved most towards zero", pruning.movement),
    "accumulated_movement": Arm(
        "the lowest sums of weight times gradient over the training", pruning.accumulated_movement
    ),
    "random_weights": Arm("at random", pruning.random_weights),
    "two_of_four": Arm("the smallest of the model, of four in a row at most two", _in_groups(2, 4), most=0.5),
    "one_of_four": Arm("the smallest of the model, of four in a row at most three", _in_groups(1, 4), most=0.75),
    "four_of_sixteen": Arm("the same, of 16 in a row at most 12", _in_groups(4, 16), most=0.75),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=256, test_images=50, epochs=1, fresh_epochs=1, seeds=1),
    Protocol("reduced", images=8192, test_images=2000, epochs=1, fresh_epochs=1, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=10, fresh_epochs=1, seeds=5),
)


@cache
def trained(network: Network, seed: int, protocol: Protocol, device: str) -> tuple[Round, Sequence[Tensor]]:
    """The round of a network that was trained on, with all that a pruner may want, and batches to estimate norms on.

    All pruners with a seed cut the same network.
    """
    data = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
    model, options = network.build(seed, fresh=False).to(device), network.options(protocol, fresh=False)
    before, movement = pruning.snapshot(model), dict[str, Tensor]()
    held = Held(model, pruning.Masks.full(model), movement)
    finetune(model, data.training(options, seed=seed, device=device), options, held=held, seed=seed)
    batches = list(islice(data.training(options, seed=seed + 1000, device=device).epoch(0), LOOKED_AT))

    def gradients(model: nn.Module) -> None:
        for images, labels in batches:
            F.cross_entropy(model.eval()(images), labels).backward()

    found = gathered(model, held.masks, gradients)
    return Round.of(model, before, held.masks, gradients=found, movement=movement), [images for images, _ in batches]


def measure(network: Network, arm: Arm, seed: int, protocol: Protocol, device: str, write: Write) -> None:
    """Cut a trained network at once: a row for each share, with the accuracy as it is and after two repairs.

    These are norms estimated anew, and the mean of what was cut made up for.
    """
    round_, batches = trained(network, seed, protocol, device)
    test = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
    whole = accuracy(round_.model, test.testing(device=device))
    for share in SHARES:
        if share > arm.most:
            none = dict.fromkeys(("accuracy", "recalibrated", "compensated"), math.nan)
            write({"share": share, "density": math.nan, "whole": whole, **none})
            continue
        masks = arm.make()(round_, share)
        model = deepcopy(round_.model)
        masks.lay_over(model)
        plain = accuracy(model, test.testing(device=device))
        surgery.recalibrate(model, batches)
        compensated = deepcopy(round_.model)
        pruning.compensate(compensated, masks, batches)
        write({
            "share": share, "density": masks.alive / masks.size, "whole": whole, "accuracy": plain,
            "recalibrated": accuracy(model, test.testing(device=device)),
            "compensated": accuracy(compensated, test.testing(device=device)),
        })  # fmt: skip


def tables(protocol: Protocol, results: Results) -> list[str]:
    """Accuracy after the cut, by what was cut."""
    text = (
        f"A trained ResNet-20, trained on for {protocol.epochs} epoch{'s' * (protocol.epochs > 1)} on"
        f" {protocol.images:,} images, loses a share of its weights at once; accuracy on {protocol.test_images:,} test"
        " images, in percent, without training after it, and the standard deviation over seeds; then with batch norm"
        f" statistics estimated anew on {LOOKED_AT} training batches, or with the mean of what is cut made up for on"
        " them."
    )
    return [
        *(paragraph(text), "", *_table(results, "accuracy"), ""),
        *("With norms estimated anew:", "", *_table(results, "recalibrated"), ""),
        *("With the mean of what is cut made up for, by `pruning.compensate`:", "", *_table(results, "compensated")),
    ]


def _table(results: Results, figure: str) -> list[str]:
    cells = [
        (
            name,
            spread(results.of(name, at(0, "whole")).values(), digits=1),
            *(_cell(results.of(name, at(k, figure)).values()) for k in range(len(SHARES))),
            str(results.seeds(name)),
        )
        for name in results
    ]
    return markdown_table(("pruner", "uncut", *(f"{share:.0%} cut" for share in SHARES), "seeds"), cells)


def _cell(accuracies: Collection[float]) -> str:
    """Their spread; a dash for a share that the pattern does not allow."""
    return "-" if any(map(math.isnan, accuracies)) else spread(accuracies, digits=1)


def draw(results: Results) -> Figure:
    """Accuracy by what was cut, norms estimated anew, and differences to the control at 50 %."""
    curves = {
        name: Curve(
            [100 * share for share in (0.0, *SHARES)],
            [
                [rows[0].figures["whole"], *(row.figures["recalibrated"] for row in rows)]
                for rows in results.rows[name].values()
            ],
        )
        for name in results
    }
    apart = results.differences(at(SHARES.index(0.5), "recalibrated"))
    return drawn(curves, "weights cut, %, norms estimated anew", apart, "points of accuracy, 50 % cut")


def study(network: Network) -> Study[Arm, Protocol]:
    """The study of a network."""

    def do(arm: Arm, seed: int, protocol: Protocol, device: str, write: Write) -> None:
        measure(network, arm, seed, protocol, device, write)

    return Study(
        "pruners", "Base pruners in one cut (ResNet-20, CIFAR-10)", "benchmarks.studies.pruners", ARMS, PROTOCOLS,
        do, tables, draw,
    )  # fmt: skip


STUDY = study(resnet(20))

if __name__ == "__main__":
    STUDY.main(__doc__)
