"""Measuring: one recipe on one network, beside the untouched network with the same training."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy
import torch
from torch import Tensor, nn

import recipes
import surgery
from benchmarks.recipes_measured.excerpt import excerpt
from benchmarks.recipes_measured.networks import NETWORKS, trained
from benchmarks.recipes_measured.protocol import Protocol, untouched
from benchmarks.studies.jobs import Write
from recipes.data import Data, open_data
from recipes.format.parse import to_toml
from recipes.format.recipe import Recipe
from recipes.models.names import resolve
from recipes.models.preprocessing import preprocessing_of
from recipes.runs.outcome import Outcome
from recipes.runs.run import run, silent
from surgery.cost.stopwatch import times_in_turns
from surgery.errors import NothingPicked
from surgery.model import in_eval

TIMED = 16  # images of a batch to time
TURNS = 9


@dataclass(frozen=True)
class Arm:
    """A recipe and the network it is measured on."""

    recipe: str
    network: str


def measure(arm: Arm, seed: int, protocol: Protocol, folder: Path, write: Write) -> None:
    """Write the one row of an arm. Networks and controls are kept in `folder`, for the other arms."""
    network = NETWORKS[arm.network]
    base = trained(arm.network, folder, protocol, seed)
    # The numbers of sites that it expects are those of the whole models.
    recipe = replace(protocol.shortened(recipes.load(arm.recipe)), expects=())
    data = open_data(
        "cifar10", data_dir=excerpt(folder, protocol), size=network.size, train_num_samples=protocol.images,
        preprocessing=preprocessing_of(resolve(base)),
    )  # fmt: skip
    before = _right(base, data)
    after_surgery = _accuracy_after_surgery(base, recipe, data, seed)

    control = untouched(recipe)
    beside = folder / f"{arm.network}-control-{zlib.crc32(to_toml(control).encode()):08x}"
    _run(control, base, beside, folder, protocol, seed, network.size)
    controlled = _right(beside, data)

    with TemporaryDirectory() as scratch:
        out, began = Path(scratch, "out"), time.process_time()
        outcome = _run(recipe, base, out, folder, protocol, seed, network.size)
        seconds = time.process_time() - began
        right = _right(out, data)
        cost = _cost(base, out, outcome, data)
    each = right.astype(float) - controlled
    write({
        "before": before.mean(), "after_surgery": after_surgery, "accuracy": right.mean(),
        "control": controlled.mean(), "difference": each.mean(), "error": each.std() / math.sqrt(len(each)),
        "seconds": seconds, **cost,
    })  # fmt: skip


def _run(recipe: Recipe, base: Path, output: Path, folder: Path, protocol: Protocol, seed: int, size: int) -> Outcome:
    return run(
        recipe, str(base), "cifar10", output, data_dir=excerpt(folder, protocol), img_size=size,
        train_num_samples=protocol.images, val_num_samples=protocol.watched_images, seed=seed, resume=True, say=silent,
    )  # fmt: skip


def _right(folder: Path, data: Data) -> numpy.ndarray:
    """Which test images the network in a folder classifies rightly; kept beside it."""
    file = folder / "right.npy"
    if not file.is_file():
        numpy.save(file, right(recipes.load_model(folder), data.testing()).numpy())
    return numpy.load(file)


def right(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Which images a network classifies rightly."""
    with in_eval(model):
        return torch.cat([model(images).argmax(1) == labels for images, labels in batches])


def _accuracy_after_surgery(base: Path, recipe: Recipe, data: Data, seed: int) -> float:
    """Right after the surgery, with what the recipe fits and recalibrates, and all gradual changes at their end."""
    if not recipe.rules:
        return math.nan
    model, options = recipes.load_model(base), recipe.finetune
    assert options is not None
    batches = [images for images, _ in data.training(options, seed=seed).epoch(0)]
    at_once = [replace(rule, fade=False, start="same") for rule in recipe.rules_for(resolve(base).full)]
    surgery.transform_(model, at_once, batches[0][:2])
    if options.fit_affine:
        surgery.fit_affine(model, batches[: options.fit_affine])
    if options.recalibrate:
        surgery.recalibrate(model, batches[: options.recalibrate])
    return float(right(model, data.testing()).float().mean())


def _cost(base: Path, out: Path, outcome: Outcome, data: Data) -> dict[str, float]:
    """Parameters, multiply-adds, ReLUs and times before and after; times as ratios."""
    networks = {"before": recipes.load_model(base).eval(), "after": recipes.load_model(out).eval()}
    images = next(iter(data.testing()))[0][:TIMED]
    found: dict[str, float] = {}
    for name, model in networks.items():
        found[f"parameters_{name}"] = sum(parameter.numel() for parameter in model.parameters())
        found[f"macs_{name}"] = surgery.macs(model, images[:1])
        found[f"relus_{name}"] = surgery.relu_count(surgery.find_sites(model, images[:1]))
    density = outcome.after.living
    found |= {"density": math.nan if density is None else density, **_times(networks, images)}
    found["merged_time"] = math.nan
    if outcome.erased or outcome.dropped:
        merged = {name: _merged(model, images[:1]) for name, model in networks.items()}
        found["merged_time"] = _times(merged, images)["time"]
    return found


def _times(networks: dict[str, nn.Module], images: Tensor) -> dict[str, float]:
    """Milliseconds per image before, and the ratio of the time after to it: the median of some turns, warm."""

    def call(model: nn.Module) -> None:
        with torch.inference_mode():
            model(images)

    functions = {name: lambda model=model: call(model) for name, model in networks.items()}
    times = times_in_turns(functions, TURNS, images.device)
    ratios = [after / before for before, after in zip(times["before"], times["after"], strict=True)]
    return {"ms": median(times["before"]) / len(images), "time": median(ratios)}


def _merged(model: nn.Module, image: Tensor) -> nn.Module:
    """The network as it is deployed: linear neighbours merged, batch norms among them."""
    try:
        return surgery.merge(model, example=image)[0].eval()
    except NothingPicked:
        return model
