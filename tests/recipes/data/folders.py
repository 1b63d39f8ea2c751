"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from recipes.data import Data
from recipes.format.settings import Finetune
from tests.recipes.data.written import picture, write_tree


def tree(folder: Path, size: int = 8, test: str = "test") -> Path:
    """Three classes; the grey value of an image is 10 * class + copy, plus 100 in the test split."""
    pictures = {
        f"{part}/{name}/{copy}.png": picture(base + 10 * label + copy, size)
        for part, base, copies in (("train", 0, 4), (test, 100, 2))
        for label, name in enumerate(("ant", "bee", "cow"))
        for copy in range(copies)
    }
    return write_tree(folder, pictures)


def values(data: Data) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Grey value and label of every image, of the training split (sorted) and the test split (in order)."""
    options = Finetune(batch_size=1, crop=0, hflip=0.0)
    fed = [pair for batch in data.training(options).epoch(0) for pair in _greys(*batch)]
    return sorted(fed), [pair for batch in data.testing(2) for pair in _greys(*batch)]


def _greys(images: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    greys = ((images[:, 0].flatten(1).mean(1) * 0.229 + 0.485) * 255).round().int()
    return list(zip(greys.tolist(), labels.tolist(), strict=True))


TRAIN = [(10 * label + copy, label) for label in range(3) for copy in range(4)]


TEST = [(100 + 10 * label + copy, label) for label in range(3) for copy in range(2)]
