"""Opening: data sets by name: built-in ones, folders of images or tar files, and those that timm opens."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from recipes.data.builtin import digits, download_cifar, torchvision_cifar, usual_folder
from recipes.data.dataset import Data, Decoding, InMemory
from recipes.data.feed import ImageTransform
from recipes.data.image_files import Damage, Damaged, MixedSizes, PictureFile, decoded, list_tree
from recipes.data.images import ImageSet, Pictures, sample
from recipes.data.loader import Files
from recipes.data.preprocessing import LARGEST_SIDE, Preprocessing, asked_size
from recipes.data.tar import list_tar
from recipes.data.timm_datasets import PREFIXES, open_timm
from surgery.errors import BadFile, BadValue, UnknownName, nearest

KNOWN = {"digits": 10, "cifar10": 10, "cifar100": 100}  # how many classes

_TEST_NAMES = ("test", "val", "validation")
_MOST_WORKERS = 1024
_SMALL_SIDE = 96  # pixels
_SMALL_SET = 1 << 30  # bytes of pixels


class UntestedClass(UserWarning):
    """A class has images to train on, and none to test on."""


Counts = tuple[int | None, int | None]  # training and test images to use; None is all
Parts = tuple[list[PictureFile], list[PictureFile]]


def open_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    size: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    train_num_samples: int | None = None,
    val_num_samples: int | None = None,
    workers: int = 2,
) -> Data:
    """Open a data set of labelled images, with a training and a test split.

    `name` is one of

    - `digits`, from scikit-learn;
    - `cifar10` or `cifar100`, read from `data_dir`, or by default from `data/NAME` in the folder SURGERY_DATA, or from
      `data`; what is not there is downloaded by torchvision, and read from its usual folder in the same place;
    - a folder (relative to `data_dir`, if given) with `train/CLASS/*.png` and `test/CLASS/*.png`, or the same files in
      `train.tar` or `train-*.tar` and `test.tar`. `val` and `validation` are read as `test`, other image formats as
      PNG, and for CIFAR the files that torchvision unpacks;
    - a name that timm opens, such as `hfds/NAME` or `torch/NAME`, with `data_dir` as its root.

    Square images of one size, up to 96 pixels and 1 GiB in total, are decoded once and kept on the device, where whole
    batches are augmented; all others go through timm's transforms in `workers` processes. Damaged images are left out:
    each is named in a warning, and when training on large ones, another image takes its place in the batch.

    `preprocessing` is that of the model (see `recipes.preprocessing_of`), or a mapping with some of its settings; the
    others default to those of ImageNet, except that digits are not normalised. `size` is the side, in pixels, of the
    images that the model gets; it defaults to that of `preprocessing`, for small images to their own, for the digits
    to 32. `train_num_samples` and `val_num_samples` use only a subset of that many images, always the same one.

    Raises:
        UnknownName: there is no such data set or folder, or it lacks a split.
        BadFile: more than a tenth of the images are damaged, or the test split has a class that the training split
            lacks.
        BadValue: a number is out of range, there are fewer images than requested, or two sizes contradict each other.
        SurgeryError: a library that it needs is not installed.
    """
    _at_least(0, workers=workers)
    _at_most(_MOST_WORKERS, workers=workers)
    size = asked_size(size, preprocessing)
    sides = {} if size is None else {"size": size}
    parts = {"train_num_samples": train_num_samples, "val_num_samples": val_num_samples}
    _at_least(1, **sides, **{name: count for name, count in parts.items() if count is not None})
    _at_most(LARGEST_SIDE, **sides)
    counts = train_num_samples, val_num_samples
    given = {} if preprocessing is None else preprocessing
    if name == "digits":
        if data_dir is not None:
            raise BadValue("the digits come with scikit-learn, not from a folder.", asked=f"data_dir={data_dir}")
        asked = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).changed(given)
        side = 32 if size is None else size
        transform = ImageTransform(side, asked.mean, asked.std, asked.interpolation, True, most_shift=2, mirrored=False)
        return _in_memory(digits(), counts, transform)
    asked = Preprocessing().changed(given)
    if name.partition("/")[0].lower() in PREFIXES and "/" in name:
        return open_timm(name, data_dir, _of_size(asked, size), counts, workers)
    if name in KNOWN:
        place = Path(data_dir).expanduser() if data_dir else usual_folder(name)
        return _cifar(name, place, asked, size, counts, workers)
    place = Path(data_dir or "", name).expanduser()
    if not place.exists():
        siblings = [path.name for path in place.parent.iterdir() if path.is_dir()] if place.parent.is_dir() else []
        raise UnknownName(
            f"unknown image set or folder {name}.",
            asked=str(place),
            there=", ".join([*KNOWN, *(f"{prefix}/NAME" for prefix in PREFIXES)]),
            try_=nearest(place.name, [*KNOWN, *siblings]),
        )
    return _files(place.resolve().name, _parts(place), asked, size, counts, workers)


def _cifar(name: str, place: Path, asked: Preprocessing, size: int | None, counts: Counts, workers: int) -> Data:
    download_cifar(name, place, there=any(_has(place, part) for part in ("train", *_TEST_NAMES)))
    if whole := torchvision_cifar(name, place):
        return _in_memory(whole, counts, _transform_for(asked, 32 if size is None else size))
    parts = _parts(place)
    classes = sorted({file.label for part in parts for file in part})
    if len(classes) != KNOWN[name]:
        raise BadFile(f"{name} has {KNOWN[name]} classes, {place} has {len(classes)}.", asked=", ".join(classes))
    return _files(name, parts, asked, size, counts, workers)


def _in_memory(whole: ImageSet, counts: Counts, transform: ImageTransform) -> Data:
    assert whole.train is not None and whole.test is not None
    train, test = (
        part if count is None else part.picked(torch.tensor(sample(len(part), count)))
        for part, count in zip((whole.train, whole.test), counts, strict=True)
    )
    return Data(whole.name, whole.classes, _whole(transform), InMemory(train, test, transform))


def _files(name: str, parts: Parts, asked: Preprocessing, size: int | None, counts: Counts, workers: int) -> Data:
    """A data set of image files, which are decoded at once if they are small."""
    classes = tuple(sorted({file.label for file in parts[0]}))
    if unknown := sorted({file.label for file in parts[1]} - set(classes)):
        problem = f"{name} has classes to test on that are not trained: {', '.join(unknown)}."
        raise BadFile(problem, there=f"{len(classes)} classes to train", try_=nearest(unknown[0], classes))
    if untested := sorted(set(classes) - {file.label for file in parts[1]}):
        few = ", ".join(untested[:5]) + (", ..." if len(untested) > 5 else "")
        warnings.warn(f"{name} has no image to test on of {len(untested)} of its {len(classes)} classes: {few}",
                      UntestedClass, stacklevel=3)  # fmt: skip
    train, test = (
        [part[index] for index in sample(len(part), count)] for part, count in zip(parts, counts, strict=True)
    )
    if _may_be_small(train, test):
        try:
            images, which = decoded([*train, *test], Damage(len(train) + len(test)))
        except MixedSizes:
            pass
        else:
            number = {label: index for index, label in enumerate(classes)}
            labels = torch.tensor([number[file.label] for file in (*train, *test)])[which]
            cut = bisect_left(which, len(train))
            transform = _transform_for(asked, images.shape[-1] if size is None else size)
            kept = InMemory(Pictures(images[:cut], labels[:cut]), Pictures(images[cut:], labels[cut:]), transform)
            return Data(name, classes, _whole(transform), kept)
    asked = _of_size(asked, size)
    return Data(name, classes, asked, Decoding(Files(train, classes), Files(test, classes), asked, workers))


def _of_size(asked: Preprocessing, size: int | None) -> Preprocessing:
    return asked if size is None else replace(asked, size=size)


def _transform_for(asked: Preprocessing, size: int) -> ImageTransform:
    return ImageTransform(size, asked.mean, asked.std, asked.interpolation)


def _whole(transform: ImageTransform) -> Preprocessing:
    """The preprocessing of small images, which are not cropped."""
    return Preprocessing(
        size=transform.size, mean=transform.mean, std=transform.std, interpolation=transform.interpolation, crop_pct=1.0
    )  # fmt: skip


def _may_be_small(*parts: Sequence[PictureFile]) -> bool:
    """Whether the first image is a small square, and all of them would fit into memory if they had its size."""
    for file in parts[0]:
        try:
            width, height = file.measured()
            break
        except Damaged:
            continue
    else:
        return True  # there is no image: decoding says so
    return width == height <= _SMALL_SIDE and sum(map(len, parts)) * 3 * width * height <= _SMALL_SET


def _parts(place: Path) -> Parts:
    """The training and the test images of a folder.

    Raises:
        UnknownName: a split is missing.
        BadFile: it is not a folder, or a split in it is not laid out as expected.
    """
    if not place.is_dir():
        raise BadFile(f"{place} is not a folder.", try_="the folder that holds it")
    found = tuple(next(_named(place, names), None) for names in (("train",), _TEST_NAMES))
    for part, what in zip(found, ("train", "test (or val, validation)"), strict=True):
        if part is None:
            there = ", ".join(sorted(path.name for path in place.iterdir())[:10]) or "nothing"
            raise UnknownName(f"no {what} in {place}, neither a folder nor tar files.", there=there)
    train, test = found
    assert train is not None and test is not None
    return train, test


def _named(place: Path, names: Sequence[str]) -> Iterator[list[PictureFile]]:
    """The images of each split that exists under one of these names, as a folder or as tar files."""
    for name in names:
        if (place / name).is_dir():
            yield list_tree(place / name)
        elif tars := sorted([*place.glob(f"{name}.tar"), *place.glob(f"{name}-*.tar")]):
            yield [file for tar in tars for file in list_tar(tar)]


def _has(place: Path, part: str) -> bool:
    """Whether a folder holds a split, as a folder or as tar files."""
    return (place / part).is_dir() or any(place.glob(f"{part}*.tar"))


def _at_least(least: int, **given: int) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise BadValue(f"{name} must be an integer, not {value!r}.")
        if value < least:
            raise BadValue(f"{name} must be at least {least}, not {value}.")


def _at_most(most: int, **given: int) -> None:
    for name, value in given.items():
        if value > most:
            raise BadValue(f"{name} must be at most {most}, not {value}.")
