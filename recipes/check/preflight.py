"""Preflight: what a run checks before it reads its first image, so that it does not fail after hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from recipes.data import Data
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune
from recipes.train.loss import check_norms, mixes
from surgery.errors import BadValue, CannotLook
from surgery.isolation.meta_copy import scratch_copy
from surgery.model import home_of, in_mode
from surgery.rng import random_state_kept


def check_before(recipe: Recipe, rules: Sequence[surgery.Rule], network: nn.Module, data: Data, world: int) -> None:
    """Check that every stage of a run can work with this network, data and number of processes.

    Nothing is changed, and no image is read: a copy of the network is run on an empty batch of the right size, on the
    meta device if possible.

    Raises:
        SurgeryError: the run would fail, for example with a single class, no images, a rule that picks nothing, batches
            too small for a norm, or incompatible options.
    """
    options = recipe.finetune or Finetune()
    trains = options.epochs > 0 and (recipe.finetune is not None or recipe.pruning is not None)
    if len(data.classes) < 2:
        raise BadValue(
            "Training needs at least two classes.", asked=f"one class, {data.classes[0]}", try_="data with more"
        )
    train, test = data.counts
    for count, what in ((train, "train"), (test, "test")):
        if count == 0:
            raise BadValue(f"No images to {what} on.", asked=data.name)
    check_options(options)
    if train is not None and train < world:
        problem = "there are fewer images to train on than processes."
        raise BadValue(problem, asked=f"{train} images, {world} processes")
    batch = options.batch_size if train is None else min(options.batch_size, train // world)
    if trains and mixes(options) and batch % 2:
        raise BadValue(
            "Mixing needs an even number of images.", asked=f"batches of {batch}", try_="an even number of images"
        )
    check_norms(network, options)
    _check_scores(network, _try(network, "eval", 2, data.size), len(data.classes))
    if trains:
        _try(network, "train", min(batch, 2), data.size)
    if rules:
        example = torch.empty(2, 3, data.size, data.size, device="meta")
        sites = surgery.find_sites(network, example)
        surgery.make_plan(sites, list(rules), skip_uneditable=recipe.skip_uneditable)


def check_options(options: Finetune) -> None:
    """Check that the options of a training are compatible with each other.

    Raises:
        BadValue: they are not.
    """
    if mixes(options) and options.batch_size % 2:
        raise BadValue(
            "Mixing needs an even number of images.", asked=f"batch_size={options.batch_size}", try_="an even number"
        )
    if options.sched == "step" and options.decay_epochs == 0:
        raise BadValue("`decay_epochs` must be above 0.", asked="decay_epochs=0", try_="more than 0")


def _check_scores(network: nn.Module, returned: Any, classes: int) -> None:
    """Check that a network returns a score for each class of each image, which is what its loss compares.

    Raises:
        BadValue: it returns something else, as a network for segmentation or detection does.
    """
    if isinstance(returned, Tensor) and returned.shape != (2, classes):
        found = f"a tensor {tuple(returned.shape)}"
    elif not isinstance(returned, Tensor | None):
        found = f"a {type(returned).__name__}"
    else:
        return
    raise BadValue(
        f"{type(network).__name__} is not a classifier of {classes} classes.", asked=f"{found} for two images",
        there=f"a tensor (2, {classes})", try_="a network that classifies images; surgery.transform edits any other",
    )  # fmt: skip


def _try(network: nn.Module, mode: str, count: int, size: int) -> Any:
    """What a copy returns for `count` images, on the meta device or, if its control flow depends on values, on its own.

    A network that cannot be copied is skipped, and None returned: it must not run itself before the training.
    """
    reason: Exception | None = None
    for device in dict.fromkeys((torch.device("meta"), home_of(network))):
        with random_state_kept(), torch.no_grad(), device:
            try:
                tried = in_mode(scratch_copy(network, meta=device.type == "meta"), mode)
            except CannotLook:
                reason = None  # the error on the meta device does not count
                continue
            try:
                return tried(torch.zeros(count, 3, size, size))
            except Exception as error:  # whatever a forward may raise
                reason = error
    if reason is None:
        return None
    cause = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    kind = type(network).__name__
    if mode == "train" and count == 1:
        raise BadValue(
            f"{kind} cannot be trained on one image at a time.", asked=cause, try_="a larger --batch-size, more images"
        ) from reason  # fmt: skip
    raise CannotLook(
        f"{kind} does not run on images of {size} pixels.", asked=cause, try_="--img-size, with a size that it takes"
    ) from reason  # fmt: skip
