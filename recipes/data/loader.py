"""Loader: feeds from timm's loaders, for images that are too large or too many to keep in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from recipes.data.augment import Colour, generator_for
from recipes.data.feed import Batch, Share
from recipes.data.image_files import Damage, Damaged, PictureFile
from recipes.data.preprocessing import Preprocessing
from recipes.format.settings import Finetune
from surgery.errors import BadFile

_ERASED_WITH = "pixel"  # timm's train.py erases with noise, too


class Labelled(Protocol):
    """Images by index, each with the index of its class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True, slots=True)
class Files:
    """Image files by index.

    Raises:
        Damaged: on access to a damaged file; the message names it.
    """

    files: Sequence[PictureFile]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        file = self.files[index]
        return file.opened(), self.classes.index(file.label)


@dataclass(frozen=True, slots=True)
class Some:
    """A subset of other images, by index."""

    pictures: Labelled
    which: Sequence[int]

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return self.pictures[self.which[index]]


class LoaderFeed:
    """Images decoded by worker processes, and cropped and augmented one by one by timm's transforms.

    The augmentation of an image depends only on the seed, the epoch and its index, not on the process or worker; except
    that on CUDA random patches are erased on the device, with the global random generator.

    Raises:
        BadValue: there are fewer images than processes.
    """

    def __init__(
        self,
        pictures: Labelled,
        preprocessing: Preprocessing,
        options: Finetune,
        *,
        seed: int,
        device: torch.device,
        workers: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._pictures = pictures
        self._transform = _transform(preprocessing, device, options)
        self._colour = preprocessing.mean, preprocessing.std
        self._erased = options.reprob
        self._seed = seed
        self._device = device
        self._workers = workers
        self._damage = Damage(len(pictures))
        self._share = Share(len(pictures), options.batch_size, rank, world)

    @property
    def steps(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from batch `start` on; earlier ones are not decoded.

        Raises:
            BadValue: `number` is negative, or `start` is not a batch of the epoch.
        """
        batches = self._share.batches(self._seed, number, start)
        mine = [order[self._share.mine].tolist() for _, order in batches]
        transformed = _Transformed(self._pictures, self._transform, (self._seed, number))
        return _loaded(transformed, mine, self._device, self._workers, self._colour, self._damage, self._erased)


class LoaderBatches:
    """All images, in order, decoded by worker processes; can be iterated again."""

    def __init__(
        self, pictures: Labelled, preprocessing: Preprocessing, batch_size: int, *, device: torch.device, workers: int
    ) -> None:
        self._transformed = _Transformed(pictures, _transform(preprocessing, device), None)
        self._colour = preprocessing.mean, preprocessing.std
        self._damage = Damage(len(pictures))
        self._batches = _in_parts(len(pictures), batch_size)
        self._device = device
        self._workers = workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return _loaded(self._transformed, self._batches, self._device, self._workers, self._colour, self._damage)


class StreamFeed:
    """A training split that timm reads as a stream and distributes over processes and workers.

    An epoch has at most `most` images per process, if given.
    """

    def __init__(
        self,
        dataset: Any,
        preprocessing: Preprocessing,
        options: Finetune,
        *,
        device: torch.device,
        workers: int,
        most: int | None,
    ) -> None:
        self._dataset = dataset
        self._device = device
        self._loader = _stream_loader(dataset, preprocessing, options.batch_size, device, workers, options)
        self._steps = _limited(len(self._loader), most, options.batch_size)

    @property
    def steps(self) -> int:
        return self._steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0; those before `start` are read and dropped."""
        self._dataset.set_epoch(number)
        return islice(_on(self._device, self._loader), start, self._steps)


class StreamBatches:
    """A test split that timm reads as a stream; can be iterated again."""

    def __init__(
        self,
        dataset: Any,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        device: torch.device,
        workers: int,
        most: int | None,
    ) -> None:
        self._device = device
        self._loader = _stream_loader(dataset, preprocessing, batch_size, device, workers)
        self._steps = _limited(len(self._loader), most, batch_size)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        return islice(_on(self._device, self._loader), self._steps)


class _Transformed(Dataset[tuple[Tensor, int] | BadFile]):
    """Transformed images; the random numbers of the transform depend on `numbers` and on the index of the image.

    Without `numbers` they are to test on, and nothing is drawn.

    Errors are returned instead of raised: torch would turn those of a worker process into a traceback as message.
    """

    def __init__(
        self, pictures: Labelled, transform: Callable[[Image.Image], Tensor], numbers: tuple[int, ...] | None
    ) -> None:
        self._pictures = pictures
        self._transform = transform
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def trains(self) -> bool:
        """Whether the images are to train on."""
        return self._numbers is not None

    def __getitem__(self, index: int) -> tuple[Tensor, int] | BadFile:
        try:
            picture, label = self._pictures[index]
        except BadFile as error:
            return error
        picture = picture.convert("RGB")
        if self._numbers is None:
            return self._transform(picture), label
        with _drawing(*self._numbers, index):
            return self._transform(picture), label


@contextmanager
def _drawing(*numbers: int) -> Iterator[None]:
    """Inside, the random numbers of Python, numpy and torch on the CPU depend on `numbers` alone."""
    before, before_numpy = random.getstate(), np.random.get_state()
    seed = generator_for(*numbers).initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(before_numpy)


def _loaded(
    transformed: _Transformed,
    batches: Sequence[list[int]],
    device: torch.device,
    workers: int,
    colour: tuple[Colour, Colour],
    damage: Damage,
    erased: float = 0.0,
) -> Iterator[Batch]:
    from timm.data.loader import PrefetchLoader, fast_collate

    if not batches:
        return
    prefetched = _prefetched(device)
    collate = fast_collate if prefetched else default_collate
    loader: Any = _Intact(
        DataLoader(
            transformed,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_collated, collate=collate, full=transformed.trains),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # otherwise the workers' seeds are drawn from the global generator
        ),
        damage,
    )
    if prefetched:
        loader = PrefetchLoader(loader, *colour, device=device, re_prob=erased, re_mode=_ERASED_WITH)
    yield from _on(device, loader)


@dataclass(frozen=True, slots=True)
class _Intact:
    """The batches of a loader without the images that its workers could not decode, which are noted."""

    loader: Iterable[Any]
    damage: Damage

    def __iter__(self) -> Iterator[Any]:
        for batch, errors in self.loader:
            for error in errors:
                if not isinstance(error, Damaged):
                    raise error
                self.damage.add(error)
            if batch is not None:
                yield batch


def _collated(samples: list[Any], collate: Callable[[list[Any]], Any], full: bool) -> tuple[Any, list[BadFile]]:
    """A batch of the images that could be decoded, None if there are none, and the errors of the others.

    A `full` batch keeps its size: steps must have as many images in all processes, and mixing needs an even number.
    """
    errors = [sample for sample in samples if isinstance(sample, BadFile)]
    intact = [sample for sample in samples if not isinstance(sample, BadFile)]
    if not intact:
        return None, errors
    filled = [*intact, *islice(cycle(intact), len(errors))] if full else intact
    return collate(filled), errors


def _stream_loader(
    dataset: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device,
    workers: int,
    options: Finetune | None = None,
) -> Any:
    from timm.data.loader import create_loader

    return create_loader(
        dataset,
        (3, preprocessing.size, preprocessing.size),
        batch_size,
        num_workers=workers,
        device=device,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
        **_settings(preprocessing, device, options),
    )


def _transform(
    preprocessing: Preprocessing, device: torch.device, options: Finetune | None = None
) -> Callable[[Image.Image], Tensor]:
    from timm.data.transforms_factory import create_transform

    settings = _settings(preprocessing, device, options)
    made: Callable[[Image.Image], Tensor] = create_transform(preprocessing.size, **settings)
    return made


def _settings(preprocessing: Preprocessing, device: torch.device, options: Finetune | None) -> dict[str, Any]:
    """Arguments for timm's transforms and loaders; without options, nothing is augmented."""
    common = {"mean": preprocessing.mean, "std": preprocessing.std, "use_prefetcher": _prefetched(device)}
    if options is None:
        whole = {"crop_pct": preprocessing.crop_pct, "crop_mode": preprocessing.crop_mode}
        return {**common, **whole, "is_training": False, "interpolation": preprocessing.interpolation}
    return {
        **common,
        "is_training": True,
        "interpolation": "random",  # as timm's train.py: part of the augmentation
        "hflip": options.hflip,
        "auto_augment": None if options.aa == "none" else options.aa,
        "re_prob": options.reprob,
        "re_mode": _ERASED_WITH,
    }


def _prefetched(device: torch.device) -> bool:
    """Whether timm prefetches batches to the device and normalises them there."""
    return device.type == "cuda"


def _on(device: torch.device, batches: Any) -> Iterator[Batch]:
    return ((images.to(device), labels.to(device)) for images, labels in batches)


def _limited(steps: int, images: int | None, batch_size: int) -> int:
    """The number of steps, limited to as many as `images` fill, at least 1."""
    return steps if images is None else min(steps, max(1, images // batch_size))


def _in_parts(count: int, length: int) -> list[list[int]]:
    return [list(range(start, min(start + length, count))) for start in range(0, count, length)]
