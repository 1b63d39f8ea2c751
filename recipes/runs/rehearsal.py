"""Rehearsal: what a run would do and how long it would take, from a few timed steps; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from recipes.data import Preprocessing
from recipes.data.feed import Feed
from recipes.format.library import load
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune
from recipes.models.names import resolve
from recipes.runs.prepare import Prepared, check_purpose, prepare
from recipes.train.device import place_of
from recipes.train.finetune import steps_of_epoch
from recipes.train.loss import mixes
from recipes.train.setup import training_of
from surgery.model import in_eval
from surgery.progress import in_words
from surgery.rng import random_state_kept
from surgery.text import table

_TIMED = 3  # steps, after one that warms up


@dataclass(frozen=True, slots=True)
class Stage:
    """A training of a run, with its optimiser steps in each epoch."""

    name: str
    epochs: int
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """What a run would do: its surgery, its trainings, and an estimate of the time; prints as a summary.

    `step_s` are seconds of a step, `test_s` of the test images once (None if they are a stream), `memory` is the peak
    in bytes on a GPU (None elsewhere). `report` is that of the surgery, None without.
    """

    model: str
    recipe: str
    data: str
    report: surgery.Report | None
    stages: tuple[Stage, ...]
    step_s: float
    test_s: float | None
    memory: int | None

    @property
    def seconds(self) -> float:
        """The estimated time of the whole run, with a test after every epoch and at both ends."""
        steps = sum(stage.epochs * stage.steps for stage in self.stages)
        tests = 2 + sum(stage.epochs for stage in self.stages)
        return steps * self.step_s + tests * (self.test_s or 0.0)

    def facts(self) -> dict[str, Any]:
        """The same as plain data."""
        given = {name: getattr(self, name) for name in ("model", "recipe", "data", "step_s", "test_s", "memory")}
        edits = [] if self.report is None else [
            {"site": str(edit.site), "make": edit.make} for edit in self.report.plan.edits
        ]  # fmt: skip
        return {**given, "seconds": self.seconds, "edits": edits, "stages": [asdict(stage) for stage in self.stages]}

    def __str__(self) -> str:
        surgery_lines = [] if self.report is None else [str(self.report), ""]
        rows = [(stage.name, str(stage.epochs), f"{stage.epochs * stage.steps:,}") for stage in self.stages]
        memory = "" if self.memory is None else f", peak memory {self.memory / 2**30:.1f} GiB"
        whole = f"about {in_words(self.seconds)} in all: {1000 * self.step_s:.0f} ms a step{memory}"
        trainings = table(("training", "epochs", "steps"), rows) if rows else ["no training"]
        last = f"{self.recipe} on {self.model} with {self.data}: {whole}; nothing was written"
        return "\n".join([*surgery_lines, *trainings, last])


def rehearse(
    recipe: Recipe | str | Path,
    model: str,
    data: str = "digits",
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
    say: Callable[[str], None] = print,
) -> Rehearsal:
    """Do everything that `run` does before its first step, then a few steps on a copy to estimate the time.

    The arguments are those of `run`. Nothing is written, and the random state is restored. A step with pruned weights
    takes a little longer than one here, and compiled steps are timed uncompiled.

    Raises:
        SurgeryError: the run would fail.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load(str(recipe))
    if skip_uneditable:
        recipe = replace(recipe, skip_uneditable=True)
    named = resolve(model)
    check_purpose(recipe, trained=pretrained is not False or named.folder is not None)
    with random_state_kept(alone=False):
        made = prepare(
            recipe, named, data, pretrained=pretrained, data_dir=data_dir, img_size=img_size,
            preprocessing=preprocessing, train_num_samples=train_num_samples, val_num_samples=val_num_samples,
            workers=workers, place=place_of(device), seed=seed, say=say,
        )  # fmt: skip
        return _rehearsed(made, seed)


def _rehearsed(made: Prepared, seed: int) -> Rehearsal:
    options = replace(made.recipe.finetune or Finetune(), torchcompile=False)
    feed = made.data.training(options, seed=seed, device=made.place.device, rank=made.place.rank,
                              world=made.place.world)  # fmt: skip
    images, _ = next(feed.epoch(0))
    network, report = made.network, None
    teacher = deepcopy(network).eval().requires_grad_(False) if options.distill else None
    if made.rules:
        report = surgery.transform_(network, made.rules, images[:2], skip_uneditable=made.recipe.skip_uneditable)
    tested = _test_seconds(network, images, made.data.counts[1])
    if made.place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(made.place.device)
    stages = trainings(made, steps_of_epoch(feed, options))
    took = _step_seconds(network, feed, options, teacher, seed) if stages else 0.0
    memory = torch.cuda.max_memory_allocated(made.place.device) if made.place.device.type == "cuda" else None
    return Rehearsal(made.name, made.recipe.name, made.data.name, report, stages, took, tested, memory)


def trainings(made: Prepared, steps: int) -> tuple[Stage, ...]:
    """The trainings of a run in order, those without an epoch left out."""
    recipe, options = made.recipe, made.recipe.finetune or Finetune()
    listed: list[tuple[str, int]] = []
    if recipe.finetune and (made.rules or not recipe.pruning):
        listed.append(("fit", options.epochs))
    if asked := recipe.pruning:
        epochs = options.epochs if asked.epochs is None else asked.epochs
        twice = asked.ap_share > 0 and asked.order == "stages"  # AP cuts after a training of its own
        for number in range(asked.rounds + 1):
            listed += [(f"round {number}, after its first cut", epochs)] if twice and number else []
            listed.append((f"round {number}", epochs))
        listed += [("final", options.epochs)] if recipe.finetune else []
    return tuple(Stage(name, epochs, steps) for name, epochs in listed if epochs)


def _step_seconds(network: nn.Module, feed: Feed, options: Finetune, teacher: nn.Module | None, seed: int) -> float:
    """The median time of a few optimiser steps, after one that warms up."""
    options = replace(options, epochs=max(options.epochs, 1))
    sample = next(feed.epoch(0))[0] if mixes(options) else None
    training = training_of(network, options, steps_of_epoch(feed, options), sample, teacher)
    training.begin(None, seed)
    batches, times, left = feed.epoch(0), list[float](), feed.steps
    for number in range(_TIMED + 1):
        count = min(options.grad_accum_steps, left)
        if not count:
            break
        began = time.perf_counter()
        loss, _ = training.step(batches, count, number)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - began)
        left -= count
    return median(times[1:] or times)


def _test_seconds(network: nn.Module, images: Tensor, count: int | None) -> float | None:
    """The time that so many images take in eval mode, from that of one batch."""
    if count is None:
        return None
    with in_eval(network):
        network(images.clone()).sum().item()
        began = time.perf_counter()
        network(images.clone()).sum().item()
    return (time.perf_counter() - began) / len(images) * count
