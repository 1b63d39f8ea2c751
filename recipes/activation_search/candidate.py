"""Candidate: one function put in place of every nonlinearity of a network, which is trained, and how accurate it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from recipes.activation_search.small_network import MLP, mlp
from recipes.data import Data, open_data
from recipes.format.settings import Finetune
from recipes.models.build import NewHead, build, input_size
from recipes.models.names import resolve
from recipes.models.preprocessing import preprocessing_of
from recipes.train.device import place_of
from recipes.train.finetune import accuracy, finetune
from surgery.activations.expressions.expression import Expression

Batch = tuple[Tensor, Tensor]
Report = Callable[[int, float], None]  # the number of an epoch, from 1, and the accuracy after it

_MLP_SIDE = 8  # pixels, those of the digits


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracies, fractions, of one training: on the images that candidates are chosen on, and on others."""

    accuracy: float
    reported: float


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How candidates are trained: the network, the images, the options.

    Every second test image chooses, the others report. Betas learn if `learn` is set.
    """

    model: str
    data: str
    options: Finetune
    pretrained: bool | str = False
    data_dir: str | None = None
    img_size: int | None = None
    train_num_samples: int | None = None
    val_num_samples: int | None = None
    device: str | None = None
    learn: bool = True

    def train(self, expression: Expression, seed: int, report: Report) -> Score:
        """Train a network with this function; the same seed gives the same weights and the same order of images.

        `report` may raise, which ends the training.

        Raises:
            SurgeryError: the loss is no longer finite.
        """
        network = self.network(expression, seed)
        feed = self.opened.training(self.options, seed=seed, device=self.place)
        journal = _Reporter(report)
        finetune(network, feed, self.options, test=_Part(self._tested, 0), seed=seed, journal=journal)
        chosen, reported = (accuracy(network, _Part(self._tested, first)) for first in (0, 1))
        return Score(chosen, reported)

    def network(self, expression: Expression, seed: int) -> nn.Module:
        """The untrained network with this function.

        Raises:
            SurgeryError: the network has no nonlinearity, or one that cannot be edited.
        """
        torch.manual_seed(seed)
        model = self._built().to(self.place)
        fixed: dict[str, Any] = {"learn": False} if expression.betas and not self.learn else {}
        surgery.transform_(model, surgery.swap(str(expression), **fixed), self._example[:2])
        return model

    @cached_property
    def opened(self) -> Data:
        """The images, in the size and the normalisation that the network expects."""
        own = None if self.model == MLP else preprocessing_of(self.model)
        side = _MLP_SIDE if self.model == MLP else input_size(self.model)
        return open_data(
            self.data, data_dir=self.data_dir, size=self.img_size or side, preprocessing=own,
            train_num_samples=self.train_num_samples, val_num_samples=self.val_num_samples,
        )  # fmt: skip

    @cached_property
    def place(self) -> torch.device:
        return place_of(self.device).device

    @cached_property
    def _tested(self) -> Iterable[Batch]:
        return self.opened.testing(device=self.place)

    @cached_property
    def _example(self) -> Tensor:
        return next(iter(self._tested))[0]

    def _built(self) -> nn.Module:
        classes = len(self.opened.classes)
        if self.model == MLP:
            return mlp(self._example.shape, classes)
        named = resolve(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NewHead)
            return build(named, self.pretrained, **{**named.kwargs, "num_classes": classes})


class _Part:
    """Every second image of each batch: those at even places, or those at odd ones."""

    def __init__(self, batches: Iterable[Batch], first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            yield images[self.first :: 2], labels[self.first :: 2]


class _Reporter:
    """The journal of a training that passes on the accuracy after every epoch."""

    def __init__(self, report: Report) -> None:
        self.report, self.epochs = report, 0

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        """A training begins."""

    def step(self, loss: float | None, images: int) -> None:
        """A step was made."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over."""
        self.epochs += 1
        self.report(self.epochs, row["top1"])
