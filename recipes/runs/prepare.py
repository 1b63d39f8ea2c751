"""Prepare: everything that a run needs, opened, built and checked before the first image is read."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

import surgery
from pruning.masks.masks import Masks
from recipes.check.preflight import check_before
from recipes.data import Data, Preprocessing, open_data
from recipes.data.preprocessing import asked_size
from recipes.format.recipe import Recipe
from recipes.models import build as models
from recipes.models.names import ModelName
from recipes.models.preprocessing import preprocessing_of
from recipes.runs.folder import masks_in
from recipes.train.device import Place
from surgery.errors import BadValue


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A network with a classifier for the data, on its device, and what is to be done with it.

    `kwargs` are the arguments of its builder, `masks` those of earlier pruning, in the folder of a saved model.
    """

    recipe: Recipe
    named: ModelName
    network: nn.Module
    kwargs: dict[str, Any]
    masks: Masks | None
    data: Data
    place: Place

    @property
    def name(self) -> str:
        """The full name of the model."""
        return self.named.full

    @property
    def rules(self) -> tuple[surgery.Rule, ...]:
        """The rules of the recipe, with the numbers of sites that they must pick on this model."""
        return self.recipe.rules_for(self.name)


def prepare(
    recipe: Recipe,
    named: ModelName,
    data: str,
    *,
    pretrained: bool | str | Path,
    data_dir: str | Path | None,
    img_size: int | None,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    train_num_samples: int | None,
    val_num_samples: int | None,
    workers: int,
    place: Place,
    seed: int,
    say: Callable[[str], None],
) -> Prepared:
    """Open the data, build the model, and check that every stage can work with them; see `run` for the arguments.

    Raises:
        SurgeryError: the run would fail.
    """
    size = asked_size(img_size, preprocessing)
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
    made = Prepared(recipe, named, network, kwargs, masks, source, place)
    check_before(recipe, made.rules, network, source, place.world)
    return made


def check_purpose(recipe: Recipe, trained: bool) -> None:
    """Check that a recipe has something to do, and a teacher if it distills.

    Raises:
        BadValue: it does not.
    """
    if not (recipe.rules or recipe.pruning or recipe.finetune):
        raise BadValue(f"the recipe {recipe.name!r} has nothing to do.", try_="a [[rule]], [pruning] or [finetune]")
    if recipe.finetune and recipe.finetune.distill and not trained:
        raise BadValue("a network without trained weights cannot be a teacher.", asked="distill",
                       try_="--pretrained, or --weights FILE")  # fmt: skip


def _masks_for(network: nn.Module, folder: Path, new_head: bool) -> Masks | None:
    """The masks in a saved folder; a new classifier is unpruned."""
    masks = masks_in(folder)
    if masks is None or not new_head:
        return masks
    whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in network.named_parameters()}
    fits = {name for name, mask in masks.items() if name not in whole or mask.shape == whole[name].shape}
    return Masks({name: mask if name in fits else whole[name] for name, mask in masks.items()})


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


def _seed(seed: int) -> None:
    """Initialise weights alike in every process; the stages set seeds of their own."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
