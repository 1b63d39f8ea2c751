"""Pictures: some to choose on, the others to report on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipes.data import Pictures

HELD_OUT = 1000  # of the 10,000 test images: to choose on


def split(pictures: Pictures, count: int) -> tuple[Pictures, Pictures]:
    """So many pictures, evenly spread over the classes that they are sorted by, and the others."""
    every = len(pictures) // count
    chosen = torch.arange(len(pictures)) % every == 0
    return (Pictures(pictures.images[chosen], pictures.labels[chosen]),
            Pictures(pictures.images[~chosen], pictures.labels[~chosen]))  # fmt: skip


def batched(pictures: Pictures, size: int) -> Iterator[Pictures]:
    for images, labels in zip(pictures.images.split(size), pictures.labels.split(size), strict=True):
        yield Pictures(images, labels)
