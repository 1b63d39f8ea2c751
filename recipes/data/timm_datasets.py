"""Data sets that timm opens by name: those of Hugging Face, TensorFlow and torchvision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.data.dataset import Data, Decoding
from recipes.data.feed import Batch, Feed
from recipes.data.images import sample
from recipes.data.loader import Labelled, Some, StreamBatches, StreamFeed
from recipes.data.preprocessing import Preprocessing
from recipes.format.settings import Finetune
from recipes.optional import check_torchvision
from surgery.errors import BadFile, SurgeryError, UnknownName

PREFIXES = ("hfds", "hfids", "tfds", "torch", "wds")

_STREAMED = ("hfids", "tfds", "wds")
_TEST_SPLITS = ("validation", "test", "val")


def open_timm(
    name: str,
    root: str | Path | None,
    preprocessing: Preprocessing,
    counts: tuple[int | None, int | None],
    workers: int,
) -> Data:
    """Open `PREFIX/NAME` with timm's `create_dataset`: the split `train`, and `validation`, `test` or `val`.

    `counts` are the numbers of training and of test images to use, None for all.

    Raises:
        UnknownName: timm does not find the data set, or a split of it.
        BadFile: the data set does not name its classes, as those of webdataset.
        SurgeryError: a library that it needs is not installed.
    """
    check_torchvision()
    train = _dataset(name, root, ("train",))
    test = _dataset(name, root, _TEST_SPLITS)
    classes = _classes(train)
    if not classes:
        raise BadFile(f"{name} does not name its classes, so that a model cannot be made for them.")
    if name.partition("/")[0].lower() in _STREAMED:
        return Data(name, classes, preprocessing, Streamed(name, root, preprocessing, counts, workers))
    kept = Decoding(_some(train, counts[0]), _some(test, counts[1]), preprocessing, workers)
    return Data(name, classes, preprocessing, kept)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A data set that timm reads as a stream."""

    name: str
    root: str | Path | None
    preprocessing: Preprocessing
    counts: tuple[int | None, int | None]
    workers: int

    def training(self, options: Finetune, seed: int, device: torch.device, rank: int, world: int) -> Feed:
        stream = _dataset(self.name, self.root, ("train",), is_training=True, batch_size=options.batch_size, seed=seed)
        most = None if self.counts[0] is None else self.counts[0] // world
        return StreamFeed(stream, self.preprocessing, options, device=device, workers=self.workers, most=most)

    def testing(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        stream = _dataset(self.name, self.root, _TEST_SPLITS, batch_size=batch_size)
        return StreamBatches(
            stream, self.preprocessing, batch_size, device=device, workers=self.workers, most=self.counts[1]
        )


def _dataset(name: str, root: str | Path | None, splits: tuple[str, ...], **settings: Any) -> Any:
    """The first of these splits that exists."""
    from timm.data.dataset_factory import create_dataset

    reasons = []
    for split in splits:
        try:
            return create_dataset(name, root=None if root is None else str(root), split=split, **settings)
        except ImportError as error:
            library = error.name or str(error)
            raise SurgeryError(
                f"{name} needs {library}, which is not installed.", try_=f"pip install {library}"
            ) from error
        except (AssertionError, LookupError, OSError, RuntimeError, ValueError) as error:
            reasons.append(str(error).strip().partition("\n")[0] or type(error).__name__)
    raise UnknownName(
        f"timm cannot open {name}, split {' or '.join(splits)}.",
        asked=f"data_dir={root}",
        there="; ".join(dict.fromkeys(reasons)),
    )


def _some(part: Labelled, count: int | None) -> Labelled:
    return part if count is None else Some(part, sample(len(part), count))


def _classes(dataset: Any) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels; empty if unknown."""
    numbers = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return tuple(str(name) for name, _ in sorted((numbers or {}).items(), key=lambda item: item[1]))
