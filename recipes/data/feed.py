"""Feed: the batches that a model is trained on, here from images in the memory of its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recipes.data.augment import (
    DEVIATION,
    MEAN,
    Colour,
    cut,
    draw_centres,
    draw_moves,
    generator_for,
    moved,
    normalise,
    resized,
)
from recipes.data.images import Pictures
from recipes.format.settings import Finetune, Interpolation
from surgery.errors import BadValue

Batch = tuple[Tensor, Tensor]

_ORDER, _AUGMENT = 0, 1  # what random numbers are for


class Feed(Protocol):
    """Batches ready for the model, on its device: images float32 (B, C, H, W), labels int64 (B)."""

    @property
    def steps(self) -> int:
        """The number of batches in an epoch of one process."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """The part of every epoch of `images` images that process `rank` of `world` gets.

    Order and augmentation are drawn for the batches of all processes together, and each takes its slice. An incomplete
    last batch is dropped; if the images do not fill even one, there is a single batch of as many as divide evenly.

    Raises:
        BadValue: there are fewer images than processes, or `rank` is not in [0, world).
    """

    images: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise BadValue("processes are counted from 0.", asked=f"process {self.rank} of {self.world}")
        if self.images < self.world:
            raise BadValue(
                "fewer images to train on than processes.",
                asked=f"{self.images} images, {self.world} processes",
            )

    @property
    def whole(self) -> int:
        """The number of images in a batch of all processes together."""
        return min(self.batch_size, self.images // self.world) * self.world

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.images // self.whole

    @property
    def mine(self) -> slice:
        """The slice of this process in a batch of all processes."""
        own = self.whole // self.world
        return slice(self.rank * own, (self.rank + 1) * own)

    def batches(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The number of each batch from `start` on, and the indices of its images for all processes, int64 (whole).

        Raises:
            BadValue: `epoch` is negative, or `start` is not a batch of it.
        """
        if epoch < 0 or not 0 <= start <= self.steps:
            raise BadValue(
                "epochs and batches are counted from 0.",
                asked=f"epoch {epoch} from batch {start}",
                there=f"{self.steps} batches",
            )
        order = torch.randperm(self.images, generator=generator_for(seed, epoch, _ORDER))
        return ((step, order[step * self.whole : (step + 1) * self.whole]) for step in range(start, self.steps))


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """How small images in memory are prepared for a model: squares of `size` pixels, three channels, normalised.

    With `enlarge_first` they are resized before they are augmented, so that shifts and cut-outs are in the pixels that
    the model gets.
    """

    size: int
    mean: Colour = MEAN
    std: Colour = DEVIATION
    interpolation: Interpolation = "bilinear"
    enlarge_first: bool = False  # of floats only
    most_shift: int | None = None  # pixels
    mirrored: bool = True  # whether mirroring keeps the class

    def plain(self, images: Tensor) -> Tensor:
        """Prepare a batch without augmentation."""
        return self._fed(normalise(images, self.mean, self.std))

    def augmented(self, images: Tensor, mine: slice, whole: int, options: Finetune, draws: torch.Generator) -> Tensor:
        """Prepare a batch, shifted, mirrored and cut; `images` are the slice `mine` of the `whole` batch."""
        crop = options.crop if self.most_shift is None else min(options.crop, self.most_shift)
        hflip = options.hflip if self.mirrored else 0.0
        if self.enlarge_first:
            images = resized(images, self.size, self.interpolation).clamp(0.0, 1.0)
        moves = draw_moves(whole, draws, crop, hflip)
        if crop or hflip:
            images = moved(images, moves.part(mine))
        images = normalise(images, self.mean, self.std)
        if options.cutout:
            centres = draw_centres(torch.Size((whole, *images.shape[1:])), draws)
            images = cut(images, centres[:, mine], options.cutout)
        return self._fed(images)

    def _fed(self, images: Tensor) -> Tensor:
        """Resize normalised images, without leaving the range of pixels."""
        fed = resized(images, self.size, self.interpolation)
        if fed is images or self.interpolation != "bicubic":
            return fed
        black, white = normalise(torch.tensor([0.0, 1.0], device=images.device).view(2, 1, 1, 1), self.mean, self.std)
        return fed.clamp(black, white)


class MemoryFeed:
    """Images on a device, shuffled anew in every epoch and augmented there, batch by batch.

    A batch depends only on the seed, the epoch and its number, so that a training can resume at any batch. W processes
    with batches of B together see the same images as one process with batches of W * B.

    Raises:
        BadValue: there are fewer images than processes.
    """

    def __init__(
        self,
        pictures: Pictures,
        transform: ImageTransform,
        options: Finetune,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._pictures = pictures
        self._transform = transform
        self._options = options
        self._seed = seed
        self._share = Share(len(pictures), options.batch_size, rank, world)

    @property
    def steps(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on.

        Raises:
            BadValue: `number` is negative, or `start` is not a batch of the epoch.
        """
        batches = self._share.batches(self._seed, number, start)
        return (self._batch(number, step, order) for step, order in batches)

    def _batch(self, epoch: int, step: int, order: Tensor) -> Batch:
        picked = self._pictures.picked(order[self._share.mine])
        draws = generator_for(self._seed, epoch, _AUGMENT, step)
        images = self._transform.augmented(picked.images, self._share.mine, len(order), self._options, draws)
        return images, picked.labels


class MemoryBatches:
    """All images on a device, in order and without augmentation; can be iterated again."""

    def __init__(self, pictures: Pictures, transform: ImageTransform, batch_size: int) -> None:
        self._pictures = pictures
        self._transform = transform
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._pictures) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        parts = self._pictures.images.split(self._batch_size), self._pictures.labels.split(self._batch_size)
        return ((self._transform.plain(images), labels) for images, labels in zip(*parts, strict=True))
