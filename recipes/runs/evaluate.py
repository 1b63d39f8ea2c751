"""Evaluate: measure the accuracy and cost of a network, for the table of before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

import pruning
from pruning.masks.masks import masks_in_force
from recipes.train.finetune import accuracy
from surgery.cost.counts import counting_flops
from surgery.errors import BadValue, CannotLook, NothingPicked
from surgery.model import check_plain, home_of, in_eval
from surgery.repair.batches import batches_of, check_repeatable


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy and cost of a network on test images; fractions are in [0, 1], None if there is nothing to count.

    `living` is the density of the prunable weights. `flops` are those of the convolutions and matrix products of one
    image, including pruned weights, a multiply-add as two. `dead_dynamic` and `dead_static` are fractions of channels,
    see `pruning.dead_neurons`, on few images. `images_s` is the measured speed in eval mode, in images per second.
    """

    accuracy: float
    parameters: int
    living: float | None
    flops: int
    dead_dynamic: float | None
    dead_static: float | None
    images_s: float


def measure(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    masks: Mapping[str, Tensor] | None = None,
    *,
    few: int = 4,
) -> Measured:
    """Measure a network on test batches (images, labels), in eval mode; they are on its device.

    All batches are read for the accuracy, the first `few` again for the dead channels and for the speed, after a
    warm-up forward. Density is that of `masks`, else of the masks of a pruning library, else 1. The model and the
    random state are restored afterwards, even if a loader shuffles. With torch.distributed, every process must call
    this.

    Raises:
        CannotLook: the model is wrapped or scripted.
        BadValue: no batches, batches that can be read only once, or that fail in the model.
    """
    check_plain(model)
    check_repeatable(batches)
    with in_eval(model):
        images = [batch.images for batch in batches_of(islice(batches, max(few, 1)), model)]
    right = accuracy(model, batches)
    dynamic, static = _dead(model, images, masks)
    with in_eval(model):
        flops, speed = _flops(model, images[0][:1]), _images_s(model, images)
    parameters = sum(param.numel() for param in model.parameters())
    return Measured(right, parameters, _density(model, masks), flops, dynamic, static, speed)


def _density(model: nn.Module, masks: Mapping[str, Tensor] | None) -> float | None:
    try:
        return (masks_in_force(model) if masks is None else pruning.Masks(masks)).share
    except (NothingPicked, BadValue):
        return None  # no prunable weights, or a zero in them need not be a zero weight


def _dead(
    model: nn.Module, images: list[Tensor], masks: Mapping[str, Tensor] | None
) -> tuple[float | None, float | None]:
    try:
        found = pruning.dead_neurons(model, images, masks)
    except (NothingPicked, BadValue, CannotLook):
        return None, None  # no activations are left, or their outputs are NaN
    return found.dynamic_share, found.static_share


def _flops(model: nn.Module, image: Tensor) -> int:
    with counting_flops() as counter:
        model(image.clone())
    return counter.get_total_flops()


def _images_s(model: nn.Module, images: list[Tensor]) -> float:
    model(images[0].clone())  # warm-up
    return sum(map(len, images)) / _seconds(model, images)


def images_per_second(
    models: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]], *, few: int = 4, rounds: int = 5
) -> list[float]:
    """The speed of several networks in eval mode, each warm, in turns: the fastest of some rounds on a few batches.

    Raises:
        BadValue: no batches, or batches that fail in a model.
    """
    images = [batch.images for batch in batches_of(islice(batches, max(few, 1)), models[0])]
    fastest = [math.inf] * len(models)
    for number in range(rounds + 1):
        for place, model in enumerate(models):
            with in_eval(model):
                took = _seconds(model, images)
            if number:  # the first round is a warm-up
                fastest[place] = min(fastest[place], took)
    return [sum(map(len, images)) / took for took in fastest]


def _seconds(model: nn.Module, images: list[Tensor]) -> float:
    copies = [image.clone() for image in images]  # the model may overwrite them
    began = _now(model)
    for copied in copies:
        model(copied)
    return max(_now(model) - began, 1e-9)


def _now(model: nn.Module) -> float:
    """The time after all pending work on the model's device."""
    home: Any = home_of(model)
    if home.type == "cuda":
        torch.cuda.synchronize(home)
    return time.perf_counter()
