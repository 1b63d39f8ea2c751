"""ResNet-56, chosen and trained, beside the smaller networks that one could have loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

import recipes
import surgery
from benchmarks.budget.measuring import fastest, folded, measured
from benchmarks.budget.pictures import HELD_OUT, batched, split
from benchmarks.budget.report import Report, accuracy_table, edits_of, in_words
from recipes.data import cifar10, normalise, shared_folder
from recipes.format.parse import Recipe
from recipes.format.settings import Finetune
from recipes.models.build import build


def resnet56(options: argparse.Namespace) -> Report:
    """ResNet-56: chosen on 1,000 test images, trained for three epochs, reported on the other 9,000."""
    data = cifar10(shards=("train-0",))
    assert data.test is not None
    weights = shared_folder() / "weights" / "cifar10_resnet{}.safetensors"
    model = build("cifar/resnet56", pretrained=str(weights).format(56)).eval()
    held, others = split(data.test, HELD_OUT)
    chosen_on = [(normalise(part.images), part.labels) for part in batched(held, 250)]
    image = normalise(held.images[: options.batch_size])
    front = surgery.choose(
        model, chosen_on, menu=("drop",), cost="macs", example=image, path=options.journal, worst=options.worst,
        points=1, progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(front)
    by_count = {len(point.actions): point for point in front.points if point.by != "exact"}
    networks: dict[str, tuple[nn.Module, str]] = {"ResNet-56": (folded(model, image), "-")}
    for count in options.blocks:
        point = by_count[count]
        bare, _ = surgery.transform(model, list(point.rules), image)
        networks[f"{count} blocks dropped, not trained"] = (folded(bare, image), in_words(point.actions))
        tuned = finetuned(point.rules, Path(options.runs) / f"resnet56-{count}", str(weights).format(56), options)
        networks[f"{count} blocks dropped, trained"] = (folded(tuned, image), in_words(point.actions))
    for depth in (44, 32):
        smaller = build(f"cifar/resnet{depth}", pretrained=str(weights).format(depth)).eval()
        networks[f"ResNet-{depth}, trained as published"] = (folded(smaller, image), "-")
    times = fastest({name: network for name, (network, _) in networks.items()}, image, options.turns)
    batches = [normalise(part.images) for part in batched(others, 250)]
    rows = measured(networks, batches, others.labels, times, "ResNet-56")
    about = (
        f"CIFAR-10, batch {options.batch_size}, channels_last, one thread, batch norms folded everywhere; chosen by KL "
        f"on {HELD_OUT} test images, with multiply-adds as the cost (all blocks have the same), "
        f"reported on the other {len(others.labels)}. Trained: {options.epochs} epochs of distillation from the "
        f"unedited network on the 50,000 training images, learning rate {options.lr}, by `recipes.run`, one seed."
    )
    return Report(about, rows, accuracy_table(rows), edits_of(rows))


def finetuned(rules: Sequence[surgery.Rule], folder: Path, weights: str, options: argparse.Namespace) -> nn.Module:
    """The edited network, trained as a recipe trains; a finished run in the folder is read again."""
    training = Finetune(epochs=options.epochs, lr=options.lr, distill=True, channels_last=True)
    recipe = Recipe("budget", tuple(rules), "ResNet-56 under a budget", finetune=training)
    if not (folder / "result.json").exists():
        recipes.run(
            recipe, "cifar/resnet56", "cifar10", folder, pretrained=weights, workers=0, seed=options.seed,
            resume=folder.exists(),
        )  # fmt: skip
    return recipes.load_model(folder).eval()
