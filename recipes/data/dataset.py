"""Dataset: an opened data set with its classes, its training feed and its test batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from recipes.data.feed import Batch, Feed, ImageTransform, MemoryBatches, MemoryFeed
from recipes.data.images import Pictures
from recipes.data.loader import Labelled, LoaderBatches, LoaderFeed
from recipes.data.preprocessing import Preprocessing
from recipes.format.settings import Finetune
from recipes.optional import check_torchvision
from surgery.errors import BadValue


class Source(Protocol):
    """Where the batches of a data set come from."""

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed: ...

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]: ...


@dataclass(frozen=True, slots=True)
class Data:
    """A data set: its name, the names of its classes, the preprocessing of its images, and where they come from."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    source: Source = field(repr=False)

    @property
    def size(self) -> int:
        """The side, in pixels, of the images that the model gets."""
        return self.preprocessing.size

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """The numbers of training and of test images; None for a stream."""
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
        """The training split for process `rank` of `world`: full batches, shuffled anew in every epoch.

        Of the options, `batch_size` and `hflip` apply to all data sets, `crop` and `cutout` to small ones in memory,
        `aa` and `reprob` to all others.

        Raises:
            BadValue: there are fewer images than processes.
        """
        return self.source.training(options, seed, torch.device(device), rank, world)

    def testing(self, batch_size: int = 250, device: torch.device | str = "cpu") -> Iterable[tuple[Tensor, Tensor]]:
        """The whole test split in order, without augmentation and the same in every process; can be iterated again.

        Raises:
            BadValue: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise BadValue("batch_size must be at least 1.", asked=f"batch_size={batch_size}")
        return self.source.testing(batch_size, torch.device(device))


@dataclass(frozen=True, slots=True)
class InMemory:
    """Small images, decoded and kept in memory."""

    train: Pictures
    test: Pictures
    transform: ImageTransform

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed:
        return MemoryFeed(self.train.to(device), self.transform, options, seed=seed, rank=rank, world=world)

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        return MemoryBatches(self.test.to(device), self.transform, batch_size)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Images that worker processes decode on demand."""

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
