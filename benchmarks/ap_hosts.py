"""Three pruners on a trained CIFAR-10 ResNet-20, each with and without AP: living weights, dead units, accuracy.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.ap_hosts
"""

import argparse
import csv
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune

import pruning
from benchmarks.conditions import RESULTS, conditions, markdown_table
from benchmarks.plain_loop import accuracy, train
from pruning.ap import Choice, cut_by_ap
from pruning.cut import count_of
from pruning.hosts import torch_prune
from pruning.hosts.torch_pruning import step as structural_step
from pruning.masks import Held
from pruning.prunable import owner_of
from pruning.round import Round, snapshot
from recipes.data import Pictures, cifar10, crop_and_flip, normalise, shared_folder
from recipes.models import build


@dataclass(frozen=True)
class Row:
    """One network after one training: round 0 is before the first cut. All shares in [0, 1]."""

    host: str
    ap: bool
    round: int
    living: float
    dynamic: float
    static: float
    dynamic_elements: float
    accuracy: float


@dataclass
class Study:
    """The data, the budget, and the rows of one pruner with or without AP."""

    shard: Pictures
    test: Pictures
    options: argparse.Namespace
    host: str
    ap: bool
    size: int = 0
    rows: list[Row] = field(default_factory=list)

    def network(self) -> nn.Module:
        """The trained network, as every arm begins."""
        weights = shared_folder() / "weights" / "cifar10_resnet20.safetensors"
        model = build("cifar/resnet20", pretrained=weights).to(self.options.device).eval()
        self.size = pruning.Masks.full(model).size
        return model

    def train(self, model: nn.Module, held: Held) -> None:
        """Train for one round, and write down what came of it."""
        train(
            model, self.shard, self.options.epochs, lr=self.options.lr, batch_size=128, weight_decay=1e-4,
            augment=crop_and_flip, prepare=normalise, seed=self.options.seed + len(self.rows), held=held,
        )  # fmt: skip
        batches = [normalise(one) for one in self.shard.images[: self.options.dead_images].split(128)]
        dead = pruning.dead_neurons(model, batches)
        row = Row(
            self.host, self.ap, len(self.rows), pruning.Masks.of(model).alive / self.size, dead.dynamic_share,
            dead.static_share, dead.dynamic_element_share, accuracy(model, self.test, prepare=normalise),
        )  # fmt: skip
        self.rows.append(row)
        print(f"{row.host}, {'AP' if row.ap else 'no AP'}, round {row.round}: {row.living:.2%} living, "
              f"{row.dynamic:.2%} dead, {row.accuracy:.2%}", flush=True)  # fmt: skip

    def held(self, model: nn.Module) -> Held:
        """What keeps the zeros of a model."""
        return partial(pruning.Masks.of(model).held, model)


def own(study: Study) -> None:
    """Global magnitude of our own, in `run_rounds`."""
    host = pruning.global_magnitude()
    pruner = pruning.with_ap(host, study.options.ap_share) if study.ap else host
    pruning.run_rounds(
        study.network(), study.train, pruner, study.options.share, study.options.rounds, rewind=None
    )  # fmt: skip


def torch_host(study: Study) -> None:
    """`torch.nn.utils.prune`, in a loop as its users write it, AP as two lines more."""
    model, options = study.network(), study.options
    ap = pruning.ActivateWhilePruning(model, options.ap_share)
    for number in range(options.rounds + 1):
        ap.begin_round()
        study.train(model, study.held(model))
        if number < options.rounds:
            alive = pruning.Masks.of(model).alive
            cut = count_of(options.share, alive) - (count_of(options.ap_share, alive) if study.ap else 0)
            layers = [owner_of(model, name) for name in pruning.prunable(model)]
            prune.global_unstructured(layers, prune.L1Unstructured, amount=cut)
            if study.ap:
                ap.step()
    torch_prune.finish(model)


def structural_host(study: Study) -> None:
    """Torch-Pruning removes channels; then AP's count is cut by AP, or in the control by magnitude."""
    model, options = study.network(), study.options
    example = normalise(study.test.images[:2])
    heads = [one for one in model.modules() if isinstance(one, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model, example, torch_pruning.importance.GroupMagnitudeImportance(), ignored_layers=heads,
        pruning_ratio=1 - (1 - options.channels) ** options.rounds, iterative_steps=options.rounds,
    )  # fmt: skip
    for number in range(options.rounds + 1):
        before = snapshot(model)
        study.train(model, study.held(model))
        if number < options.rounds:
            survivors = structural_step(pruner, example=example)
            round = Round.of(model, {name: survivors.of(name, one) for name, one in before.items()})
            if study.ap:
                masks = cut_by_ap(round, count_of(options.ap_share, round.masks.alive), Choice())
            else:
                masks = pruning.global_magnitude()(round, options.ap_share)
            masks.lay_over(model)


HOSTS: dict[str, Callable[[Study], None]] = {
    "global magnitude": own,
    "torch.nn.utils.prune": torch_host,
    "Torch-Pruning": structural_host,
}


def write(rows: list[Row], options: argparse.Namespace, command: str) -> None:
    """Write the table as Markdown and as CSV."""
    head = ("pruner", "AP", "round", "living", "dynamically dead", "statically dead", "dead elements", "accuracy")
    cells = [
        (row.host, "yes" if row.ap else "no", str(row.round), f"{row.living:.2%}", f"{row.dynamic:.2%}",
         f"{row.static:.2%}", f"{row.dynamic_elements:.2%}", f"{row.accuracy:.2%}")
        for row in rows
    ]  # fmt: skip
    text = [
        "# AP beside three pruners (ResNet-20, CIFAR-10)",
        "",
        f"A trained network, fine-tuned on {options.images:,} random images of `{options.shard}.tar` for"
        f" {options.epochs} epoch(s) before",
        f"the first cut (round 0) and after each, no rewind, peak learning rate {options.lr:g}, batch 128. A round cuts"
        f" {options.share:.0%} of the",
        f"living weights, {options.ap_share:.0%} of them by AP where it says so. Torch-Pruning removes"
        f" {options.channels:.0%} of the channels a round, then",
        f"{options.ap_share:.0%} of the weights go, by AP or by magnitude. Dead: channels (and elements) that never"
        " speak on",
        f"{options.dead_images} training images though they have living weights. Accuracy on"
        f" {options.test_images:,} test images. One run a row.",
        "",
        *markdown_table(head, cells),
        "",
        *conditions(command, options.seed, options.device),
        "",
    ]
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ap_hosts.md").write_text("\n".join(text), encoding="utf-8")
    with (folder / "ap_hosts.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows([getattr(row, name) for name in Row.__dataclass_fields__] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.5, help="of the living weights, cut in a round")
    parser.add_argument("--ap-share", type=float, default=0.05)
    parser.add_argument("--channels", type=float, default=0.2, help="removed by Torch-Pruning in a round")
    parser.add_argument("--epochs", type=int, default=1, help="of each training")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--shard", default="train-0")
    parser.add_argument("--images", type=int, default=16670, help="to train on")
    parser.add_argument("--dead-images", type=int, default=1024)
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    told = [(f"--{key.replace('_', '-')}", value) for key, value in vars(options).items() if key != "results"]
    given = [(flag, value) for flag, value in told if value != parser.get_default(flag[2:].replace("-", "_"))]
    command = shlex.join(["python", "-m", "benchmarks.ap_hosts", *(str(word) for pair in given for word in pair)])
    torch.manual_seed(options.seed)
    data = cifar10(shards=(options.shard,)).to(options.device)
    assert data.train is not None and data.test is not None
    shard, test = data.train.first(options.images), data.test.shuffled().first(options.test_images)
    rows: list[Row] = []
    for host, run in HOSTS.items():
        for ap in (False, True):
            study = Study(shard, test, options, host, ap)
            run(study)
            rows += study.rows
            write(rows, options, command)
    print("wrote ap_hosts.md and .csv")


if __name__ == "__main__":
    main()
