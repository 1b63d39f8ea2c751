"""Dataset: an opened image set with its classes, training feed and test batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from recipes.data.feed import Batch, Feed, Look, MemoryBatches, MemoryFeed
from recipes.data.images import Pictures
from recipes.data.loader import Labelled, LoaderBatches, LoaderFeed
from recipes.data.preprocessing import Preprocessing
from recipes.format.settings import Finetune
from recipes.optional import check_torchvision
from surgery.errors import BadValue


class Source(Protocol):
    """Where the batches of a set come from."""

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed: ...

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]: ...


@dataclass(frozen=True, slots=True)
class Data:
    """An image set to train and to test on: its name, its classes by name, how its pictures are preprocessed."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    source: Source = field(repr=False)

    @property
    def size(self) -> int:
        """Pixels of a side, as a model is fed."""
        return self.preprocessing.size

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """How many images there are to train and to test on; None where they come as a stream."""
        parts = (getattr(self.source, part, None) for part in ("train", "test"))
        train, test = (None if part is None else len(part) for part in parts)
        return train, test

    def training(
        self,
        options: Finetune,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Feed:
        """The training part as process `rank` of `world` sees it: full batches, in an order drawn for each epoch.

        Small sets, held in memory, heed `batch_size`, `crop`, `hflip` and `cutout` of the options; others
        `batch_size`, `hflip`, `aa` and `reprob`.

        Raises:
            BadValue: fewer images than processes.
        """
        return self.source.training(options, seed, torch.device(device), rank, world)

    def testing(self, batch_size: int = 250, device: torch.device | str = "cpu") -> Iterable[tuple[Tensor, Tensor]]:
        """The whole test part, in order, without augmentation, the same in every process; again and again.

        Raises:
            BadValue: a batch size below 1.
        """
        if batch_size < 1:
            raise BadValue("batch_size must be at least 1.", asked=f"batch_size={batch_size}")
        return self.source.testing(batch_size, torch.device(device))


@dataclass(frozen=True, slots=True)
class InMemory:
    """Small pictures, decoded."""

    train: Pictures
    test: Pictures
    look: Look

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed:
        return MemoryFeed(self.train.to(device), self.look, options, seed=seed, rank=rank, world=world)

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        return MemoryBatches(self.test.to(device), self.look, batch_size)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Pictures that are decoded by worker processes as they are needed."""

    train: Labelled
    test: Labelled
    preprocessing: Preprocessing
    workers: int

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed:
        check_torchvision()
        return LoaderFeed(
            self.train, self.preprocessing, options, seed=seed, device=device, workers=self.workers, rank=rank,
            world=world,
        )  # fmt: skip

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        check_torchvision()
        return LoaderBatches(self.test, self.preprocessing, batch_size, device=device, workers=self.workers)
