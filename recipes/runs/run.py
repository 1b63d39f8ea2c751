"""Run: apply a recipe to a model (surgery, pruning, fine-tuning), with all results in one folder."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from recipes.check.preflight import check_before
from recipes.data import Data, Preprocessing, open_data
from recipes.data.preprocessing import asked_size
from recipes.format.library import load
from recipes.format.parse import to_toml
from recipes.format.recipe import Recipe
from recipes.log.journal import Journal
from recipes.log.trackers import TrackerName
from recipes.models import build as models
from recipes.models.names import ModelName, resolve
from recipes.models.preprocessing import preprocessing_of
from recipes.runs.evaluate import measure
from recipes.runs.folder import MASKS, begin, claim, finish, finished, masks_in, release
from recipes.runs.outcome import Outcome
from recipes.runs.stages import Stages
from recipes.train.device import place_of
from surgery.errors import BadValue, SurgeryError


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
    _check(recipe, trained=pretrained is not False or named.folder is not None)
    place, name, folder = place_of(device), named.full, Path(output)
    say = say if place.first else _silent
    settings = _settings(preprocessing)
    size = asked_size(img_size, preprocessing)
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
    own = preprocessing_of(named)
    source = open_data(
        data, data_dir=data_dir, size=models.input_size(named) if size is None else size,
        preprocessing=own.changed(preprocessing or {}) if own else preprocessing,
        train_num_samples=train_num_samples, val_num_samples=val_num_samples, workers=workers,
    )  # fmt: skip
    _seed(seed)
    network, kwargs = _built(named, pretrained, source, size, say)
    network.to(place.device)
    masks = None if named.folder is None else _masks_for(network, named.folder, kwargs != named.kwargs)
    check_before(recipe, recipe.rules_for(name), network, source, place.world)
    before = measure(network, source.testing(device=place.device), masks)
    say(f"{name}, {source.name}: {before.accuracy:.2%} before")
    if masks is None and (named.folder is not None or isinstance(pretrained, str | Path)):
        _report_zeros(network, say)
    if place.first:
        claim(folder, asked)
    try:
        with closing(Journal(folder, trackers=trackers, say=say)) as journal:
            stages = Stages(
                recipe, recipe.rules_for(name), network, source, place, folder, journal, seed, recovery_interval, say,
                masks=masks,
            )  # fmt: skip
            report, masks = stages.carry_out()
    except SurgeryError:
        if place.first:
            release(folder)
        raise
    seconds = time.perf_counter() - started
    after = measure(network, source.testing(device=place.device), masks)
    outcome = Outcome.of(name, recipe.name, source.name, before, after, report, seconds, source.preprocessing)
    if place.first:
        finish(folder, network, masks, recipe, outcome, name, kwargs)
    return outcome


def _masks_for(network: nn.Module, folder: Path, new_head: bool) -> Masks | None:
    """The masks in a saved folder; a new classifier is unpruned."""
    masks = masks_in(folder)
    if masks is None or not new_head:
        return masks
    whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in network.named_parameters()}
    fits = {name for name, mask in masks.items() if name not in whole or mask.shape == whole[name].shape}
    return Masks({name: mask if name in fits else whole[name] for name, mask in masks.items()})


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


def _built(
    named: ModelName, pretrained: bool | str | Path, data: Data, img_size: int | None, say: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model with a classifier for the data, and the arguments for its builder."""
    name, kwargs = named.full, {"num_classes": len(data.classes)}
    if named.folder is not None:
        kwargs = {**named.kwargs, **kwargs}
    elif img_size and (own := models.input_size(named)) and own != img_size:
        if name.startswith("torchvision/") and not name.startswith("torchvision/vit_"):
            raise BadValue(f"{name} supports only one image size.", asked=f"{img_size} pixels", there=f"{own} pixels")
        kwargs["image_size" if name.startswith("torchvision/") else "img_size"] = img_size
    if named.folder is None and name in ("torchvision/googlenet", "torchvision/inception_v3"):
        kwargs["aux_logits"] = False  # auxiliary classifiers would need a loss of their own
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", models.NewHead)
        network = models.build(named, pretrained, **kwargs)
    for warning in caught:
        if issubclass(warning.category, models.NewHead):
            say(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return network, kwargs


def _check(recipe: Recipe, trained: bool) -> None:
    if not (recipe.rules or recipe.pruning or recipe.finetune):
        raise BadValue(f"the recipe {recipe.name!r} has nothing to do.", try_="a [[rule]], [pruning] or [finetune]")
    if recipe.finetune and recipe.finetune.distill and not trained:
        raise BadValue("a network without trained weights cannot be a teacher.", asked="distill",
                       try_="--pretrained, or --weights FILE")  # fmt: skip


def _seed(seed: int) -> None:
    """Initialise weights alike in every process; the stages set seeds of their own."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _silent(text: str) -> None:
    """Print nothing, in all processes but the first."""
