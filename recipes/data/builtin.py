"""Built-in data sets: scikit-learn's digits, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.data.images import ImageSet, Pictures
from recipes.data.tar import read_tar
from recipes.optional import check_torchvision
from surgery.errors import BadFile, SurgeryError, UnknownName
from surgery.processes import gathered_or_raised


def digits(test_share: float = 0.2, seed: int = 0) -> ImageSet:
    """Load the handwritten digits of scikit-learn: 1,797 grey images (N, 1, 8, 8), float in [0, 1].

    A fraction `test_share` of them, in [0, 1], is the test split, which depends on `seed` alone.

    Raises:
        SurgeryError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SurgeryError(
            "the digits come with scikit-learn, which is not installed.",
            try_='pip install "activation-surgery[demo]"',
        ) from error
    source = load_digits()
    images = torch.from_numpy(source.images).to(torch.float32).unsqueeze(1) / 16.0
    whole = Pictures(images, torch.from_numpy(source.target).to(torch.int64)).shuffled(seed)
    cut = round(test_share * len(whole))
    return ImageSet(
        name="digits",
        classes=tuple(str(name) for name in source.target_names),
        train=Pictures(whole.images[cut:], whole.labels[cut:]),
        test=whole.first(cut),
    )


def cifar10(folder: str | Path | None = None, shards: Sequence[str] = ("train-0",), test: bool = True) -> ImageSet:
    """Load CIFAR-10 from tar files of PNG images, without unpacking them: uint8 (N, 3, 32, 32).

    `folder` contains `test.tar` and a `SHARD.tar` for every name in `shards` (empty: no training split); it defaults
    to `data/cifar10` in the folder that the environment variable SURGERY_DATA names. The files are sorted by class, so
    the training images are shuffled, always in the same way.

    Raises:
        UnknownName: a file is missing.
        BadFile: a file is not a tar file of images, or they do not have ten classes.
        SurgeryError: `folder` is not given, and SURGERY_DATA is not set.
    """
    place = shared_folder() / "data" / "cifar10" if folder is None else Path(folder)
    read = {name: read_tar(place / f"{name}.tar") for name in (*shards, *(("test",) if test else ()))}
    classes = tuple(sorted({label for _, labels in read.values() for label in labels}))
    number = {label: index for index, label in enumerate(classes)}
    if len(classes) != 10:
        raise BadFile(f"CIFAR-10 has ten classes, these files have {len(classes)}.", asked=", ".join(classes))

    def joined(names: Sequence[str]) -> Pictures:
        labels = [number[label] for name in names for label in read[name][1]]
        return Pictures(torch.cat([read[name][0] for name in names]), torch.tensor(labels))

    return ImageSet(
        name="cifar10",
        classes=classes,
        train=joined(shards).shuffled() if shards else None,
        test=joined(["test"]) if test else None,
    )


def torchvision_cifar(name: str, folder: Path) -> ImageSet | None:
    """Load `cifar10` or `cifar100` as torchvision unpacks it; None if `folder` does not contain that.

    The files are pickled, and torchvision verifies their checksums before it reads them.

    Raises:
        BadFile: files are missing or modified.
        SurgeryError: torchvision is not usable.
    """
    base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    if folder.name == base:
        folder = folder.parent
    if not (folder / base).is_dir():
        return None
    check_torchvision()
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        train, test = (kind(folder, train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise BadFile(
            f"the files in {folder / base} are incomplete or damaged: their checksums are not those of {name}.",
            try_=f"torchvision.datasets.{kind.__name__}(folder, download=True)",
        ) from error
    return ImageSet(name, tuple(train.classes), *(_pictures(part) for part in (train, test)))


def download_cifar(name: str, folder: Path, *, there: bool = False) -> None:
    """Let torchvision download `cifar10` or `cifar100` into `folder`, unless they are `there`, or as it unpacks them.

    All processes call this, and one on each machine downloads.

    Raises:
        UnknownName: they cannot be downloaded.
        SurgeryError: torchvision is not usable.
    """
    check_torchvision()
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    there = there or folder.name == kind.base_folder or (folder / kind.base_folder).is_dir()
    failure = None
    if not there and os.environ.get("LOCAL_RANK", "0") == "0":
        try:
            kind(folder, download=True)
        except (OSError, RuntimeError) as error:
            failure = UnknownName(
                f"{name} is not in {folder}, and cannot be downloaded.", asked=f"{type(error).__name__}: {error}"[:200],
                try_="data_dir, the folder that holds it",
            )  # fmt: skip
    gathered_or_raised(None, failure, "get the images")


def usual_folder(name: str) -> Path:
    """Where a data set is by default: `data/NAME` in the folder SURGERY_DATA, or `data` if that is not set."""
    return shared_folder() / "data" / name if os.environ.get("SURGERY_DATA") else Path("data")


def shared_folder() -> Path:
    """The folder with data and weights that SURGERY_DATA names.

    Raises:
        SurgeryError: the variable is not set, or does not name a folder.
    """
    text = os.environ.get("SURGERY_DATA", "")
    if not text or not Path(text).is_dir():
        raise SurgeryError(
            "the folder with data and weights is unknown.",
            asked=f"SURGERY_DATA={text!r}, which is not a folder" if text else "no environment variable SURGERY_DATA",
            try_="SURGERY_DATA=FOLDER, with data/cifar10 and weights in it; for the data alone, data_dir",
        )
    return Path(text)


def _pictures(source: Any) -> Pictures:
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(source.targets))
