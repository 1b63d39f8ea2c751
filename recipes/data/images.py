"""Images: image tensors with their labels, and the training and test split of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surgery.errors import BadFile, BadValue


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Images (N, C, H, W), uint8 or float, and their labels (N), int64, counted from 0."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.shape != self.images.shape[:1]:
            shapes = f"images {tuple(self.images.shape)}, labels {tuple(self.labels.shape)}"
            raise BadFile("images and labels do not match.", asked=shapes)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Pictures:
        """The first `count` images."""
        return Pictures(self.images[:count], self.labels[:count])

    def picked(self, which: Tensor) -> Pictures:
        """The images at these indices, in that order."""
        which = which.to(self.labels.device)
        return Pictures(self.images[which], self.labels[which])

    def shuffled(self, seed: int = 0) -> Pictures:
        """The same images in an order that depends on `seed` alone."""
        return self.picked(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)))

    def to(self, device: torch.device | str) -> Pictures:
        """The same images on `device`."""
        return Pictures(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """The training and the test split of a data set (None if not read), and the names of its classes."""

    name: str
    classes: tuple[str, ...]
    train: Pictures | None
    test: Pictures | None

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on `device`."""
        train, test = (None if part is None else part.to(device) for part in (self.train, self.test))
        return replace(self, train=train, test=test)


def sample(count: int, wanted: int | None) -> list[int]:
    """A random sample of `wanted` of `count` indices, always the same one; all indices in order for None.

    Raises:
        BadValue: `wanted` is more than `count`.
    """
    if wanted is None:
        return list(range(count))
    if wanted > count:
        raise BadValue("There are fewer images than that.", asked=str(wanted), there=str(count))
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order[:wanted]
