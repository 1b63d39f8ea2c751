"""Run: apply a recipe to a model (surgery, pruning, fine-tuning), with all results in one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pruning.masks.prunable import prunable
from recipes.data import Preprocessing
from recipes.format.library import load
from recipes.format.parse import to_toml
from recipes.format.recipe import Recipe
from recipes.log.journal import Journal
from recipes.log.trackers import TrackerName, tracker
from recipes.models.names import resolve
from recipes.runs.evaluate import images_per_second, measure
from recipes.runs.folder import MASKS, begin, claim, finish, finished, release
from recipes.runs.outcome import Outcome
from recipes.runs.prepare import check_purpose, prepare
from recipes.runs.stages import Stages
from recipes.train.device import place_of
from surgery.errors import SurgeryError


def run(
    recipe: Recipe | str | Path,
    model: str,
    data: str = "digits",
    output: str | Path = "out",
    *,
    pretrained: bool | str | Path = False,
    data_dir: str | Path | None = None,
    img_size: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    train_num_samples: int | None = None,
    val_num_samples: int | None = None,
    workers: int = 2,
    device: str | None = None,
    seed: int = 0,
    skip_uneditable: bool = False,
    resume: bool = False,
    recovery_interval: int = 0,
    trackers: Sequence[TrackerName] = (),
    say: Callable[[str], None] = print,
) -> Outcome:
    """Apply a recipe to a model: edit, prune and fine-tune it, and write the result to the folder `output`.

    The order is fixed: surgery; a training in which gradual changes complete; rounds of pruning, with a training before
    the first cut and one after each; a last training with the masks held. A recipe without pruning has only the first
    training, one without rules all but the first.

    `model` and `pretrained` are as for `recipes.build`; `data`, `data_dir` and the numbers of samples and workers as
    for `recipes.data.open_data`; the data determine the number of classes. Images are preprocessed as the model
    expects (see `recipes.preprocessing_of`), except for the settings in `preprocessing`. The model is built for images
    of `img_size` pixels, if given here or in `preprocessing`. With `skip_uneditable`, here or in the recipe, calls
    that cannot be edited are left alone and reported.

    `output` must be a new folder. With `resume`, a killed run continues there (on the CPU with data in memory, its
    result is bit-identical), and a finished one returns its outcome again. Checkpoints are written after every epoch,
    and every `recovery_interval` steps if that is above 0. Under torchrun, every process makes the same call, and the
    first one writes and reports.

    It writes `model.safetensors` and `surgery.json`, `recipe.toml`, `result.json`, `log.csv`, the model card
    `README.md`, and `masks.safetensors` if anything was pruned. `recipes.load_model(output)` loads the model. A saved
    folder as `model` stays pruned by its masks; weights that are zero without a mask learn, with a warning.

    Raises:
        SurgeryError: an argument is invalid. Nothing has been trained.
    """
    started = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else load(str(recipe))
    if skip_uneditable:
        recipe = replace(recipe, skip_uneditable=True)
    named = resolve(model)
    check_purpose(recipe, trained=pretrained is not False or named.folder is not None)
    place, name, folder = place_of(device), named.full, Path(output)
    say = say if place.first else silent
    settings = _settings(preprocessing)
    asked: dict[str, Any] = {
        "recipe": to_toml(recipe), "model": str(model), "pretrained": str(pretrained), "data": data,
        "data_dir": str(data_dir), "img_size": img_size, "train_num_samples": train_num_samples,
        "val_num_samples": val_num_samples, "seed": seed, "processes": place.world,
    }  # fmt: skip
    if settings:
        asked["preprocessing"] = settings
    begin(folder, asked, resume)
    if (outcome := finished(folder)) is not None:
        return outcome
    for tracked in trackers:
        tracker(tracked, folder)  # fails now if it must, not after the first images
    made = prepare(
        recipe, named, data, pretrained=pretrained, data_dir=data_dir, img_size=img_size, preprocessing=preprocessing,
        train_num_samples=train_num_samples, val_num_samples=val_num_samples, workers=workers, place=place, seed=seed,
        say=say,
    )  # fmt: skip
    network, source, masks = made.network, made.data, made.masks
    untouched = deepcopy(network)
    before = measure(network, source.testing(device=place.device), masks)
    say(f"{name}, {source.name}: {before.accuracy:.2%} before")
    if masks is None and (named.folder is not None or isinstance(pretrained, str | Path)):
        _report_zeros(network, say)
    if place.first:
        claim(folder, asked)
    try:
        with closing(Journal(folder, trackers=trackers, say=say)) as journal:
            stages = Stages(
                recipe, made.rules, network, source, place, folder, journal, seed, recovery_interval, say,
                masks=masks,
            )  # fmt: skip
            report, masks = stages.carry_out()
    except SurgeryError:
        if place.first:
            release(folder)
        raise
    seconds = time.perf_counter() - started
    after = measure(network, source.testing(device=place.device), masks)
    speeds = images_per_second([untouched, network], source.testing(device=place.device))
    before, after = (replace(part, images_s=speed) for part, speed in zip((before, after), speeds, strict=True))
    outcome = Outcome.of(name, recipe.name, source.name, before, after, report, seconds, source.preprocessing)
    if place.first:
        finish(folder, network, masks, recipe, outcome, name, made.kwargs)
    return outcome


def _settings(given: Preprocessing | Mapping[str, Any] | None) -> dict[str, Any]:
    """The checked preprocessing settings of the caller, as plain data.

    Raises:
        UnknownName, BadValue: as `Preprocessing.changed`.
    """
    facts = Preprocessing().changed({} if given is None else given).facts()
    return {name: value for name, value in facts.items() if isinstance(given, Preprocessing) or name in (given or {})}


def _report_zeros(network: nn.Module, say: Callable[[str], None]) -> None:
    """Report zero weights that may have been pruned but will learn."""
    try:
        weights = prunable(network).values()
    except SurgeryError:
        return  # pruning raises the same error
    zeros, size = sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)
    if zeros:
        say(f"{zeros:,} of {size:,} weights are zero, and not pruned according to a {MASKS}: they will learn")


def silent(text: str) -> None:
    """Print nothing, in all processes but the first."""
