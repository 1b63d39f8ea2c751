"""Stages: the stages of a run: surgery, a training, rounds of pruning, a last training."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import pruning
import surgery
from pruning.masks.cut import count_of
from pruning.masks.hold_in_training import Held
from pruning.rounds.round import Pruner, Staged, wants_of
from recipes.data import Data
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune, Pruning
from recipes.log.journal import Journal
from recipes.runs.folder import ROUNDS, TRAINING
from recipes.train.device import Place
from recipes.train.finetune import finetune
from surgery.repair.batches import batch_errors
from surgery.schedule.progress import finish

_LOOKED_AT = 8  # batches for criteria with gradients, and for AP by dead units


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The inputs of a run. `rules` are those of the recipe, with the number of sites they must pick on this model.

    `masks` are those of earlier pruning.
    """

    recipe: Recipe
    rules: tuple[surgery.Rule, ...]
    network: nn.Module
    data: Data
    place: Place
    folder: Path
    journal: Journal
    seed: int
    every: int
    say: Callable[[str], None]
    masks: pruning.Masks | None = None

    def carry_out(self) -> tuple[surgery.Report | None, pruning.Masks | None]:
        """Run all stages on the network, in place; returns the report of the surgery and the masks.

        The report is None without surgery, the masks are None if nothing was ever pruned.

        Randomness depends only on the seed and the name of the stage, so that a stage that is repeated after a kill is
        the same.
        """
        options = self.recipe.finetune or Finetune()
        teacher = deepcopy(self.network).eval().requires_grad_(False) if options.distill else None
        train = partial(self._train, options=options, teacher=teacher)
        report = self._operate(options) if self.rules else None
        start = _settled_state(self.network) if self.recipe.pruning else {}
        if self.recipe.finetune and (self.rules or not self.recipe.pruning):
            train(self.network, None if self.masks is None else Held(self.network, self.masks), "fit")
        if not self.recipe.pruning:
            return report, self.masks
        masks = self._prune(self.recipe.pruning, options, start, teacher)
        if self.recipe.finetune and options.epochs:
            train(self.network, Held(self.network, masks), "final")
        return report, masks

    def _operate(self, options: Finetune) -> surgery.Report:
        report = surgery.transform_(
            self.network, self.rules, self._images(1, options)[0][:2], skip_uneditable=self.recipe.skip_uneditable
        )
        self.say(f"\n{report}\n")
        if options.fit_affine:
            surgery.fit_affine(self.network, self._images(options.fit_affine, options))
        if batches := self._to_recalibrate(options):
            surgery.recalibrate(self.network, batches)
        return report

    def _to_recalibrate(self, options: Finetune) -> list[Tensor] | None:
        """Batches for recalibrating batch norms; None if it is off, or without batch norms."""
        has_norms = any(
            isinstance(module, _BatchNorm) and module.track_running_stats for module in self.network.modules()
        )
        return self._images(options.recalibrate, options) if options.recalibrate and has_norms else None

    def _prune(
        self, asked: Pruning, options: Finetune, start: dict[str, Tensor], teacher: nn.Module | None
    ) -> pruning.Masks:
        """The rounds; their trainings are named by the number of unpruned weights, so that a killed run can resume."""
        masks = pruning.Masks.full(self.network) & (self.masks or {})
        counts = [masks.alive]
        for _ in range(asked.rounds):
            counts.append(counts[-1] - count_of(asked.share, counts[-1]))
        short = replace(options, epochs=options.epochs if asked.epochs is None else asked.epochs)
        pruner = self._pruner(asked, options)
        resumes = "movement" not in wants_of(pruner)  # which is gathered in one process

        def train(model: nn.Module, held: Held) -> None:
            self._train(model, held, _name_of(held.masks.alive, counts), short, teacher, resumes)

        def after(number: int, masks: pruning.Masks) -> None:
            self.say(f"round {number} of {asked.rounds}: density {masks.share:.1%}")

        return pruning.run_rounds(
            self.network, train, pruner, asked.share, asked.rounds, masks=masks,
            rewind=start if asked.rewind == "init" else None,
            gradients=lambda model: self._gradients(model, options),
            recalibrate=self._to_recalibrate(options),
            folder=self.folder / f"{ROUNDS}-{self.place.rank}", after=after,
        )  # fmt: skip

    def _pruner(self, asked: Pruning, options: Finetune) -> Pruner | Staged:
        host: Pruner = getattr(pruning, asked.criterion)()
        if not asked.ap_share:
            return host
        images = self._images(_LOOKED_AT, options) if asked.score == "dead" else None
        kind = pruning.with_ap if asked.order == "beside" else pruning.in_stages
        return kind(host, asked.ap_share, asked.among, asked.score, batches=images)

    def _train(
        self, model: nn.Module, held: Held | None, stage: str, options: Finetune, teacher: nn.Module | None,
        resumes: bool = True,
    ) -> None:  # fmt: skip
        seed = zlib.crc32(f"{self.seed} {stage}".encode())
        feed = self.data.training(
            options, seed=seed, device=self.place.device, rank=self.place.rank, world=self.place.world
        )
        # The trainings of the rounds use one folder in turn: their results are saved by `run_rounds`.
        kind = stage.split()[0]
        folder = self.folder / TRAINING / kind if resumes else None
        finetune(
            model, feed, options, test=self.data.testing(device=self.place.device), teacher=teacher, held=held,
            seed=seed, folder=folder, reuse=kind == "round", journal=self.journal, phase=stage, every=self.every,
        )  # fmt: skip

    def _gradients(self, model: nn.Module, options: Finetune) -> None:
        for number, (images, labels) in enumerate(self._batches(_LOOKED_AT, options), 1):
            with batch_errors(number, model, images):
                F.cross_entropy(model(images), labels).backward()

    def _images(self, count: int, options: Finetune) -> list[Tensor]:
        return [images for images, _ in self._batches(count, options)]

    def _batches(self, count: int, options: Finetune) -> list[tuple[Tensor, Tensor]]:
        """Training batches for measurements, the same in every process."""
        feed = self.data.training(options, seed=self.seed, device=self.place.device)
        return list(islice(feed.epoch(0), count))


def _settled_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights before any training, by the names they have after all gradual changes."""
    return finish(deepcopy(network)).state_dict()


def _name_of(alive: int, counts: list[int]) -> str:
    """The name of the training of a network with `alive` unpruned weights; `counts` are those after each round."""
    number = next((k for k, count in enumerate(counts) if count <= alive), len(counts) - 1)
    return f"round {number}" + ("" if counts[number] == alive else ", after its first cut")
