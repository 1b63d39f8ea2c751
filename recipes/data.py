"""Small image sets, held in memory: scikit-learn's digits and CIFAR-10 from tar files."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from surgery.errors import BadFile, SurgeryError, UnknownName, nearest

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

_LARGEST_PICTURE = 1 << 20  # bytes of a file, and pixels; a picture of 32 x 32 pixels has about 2,000 bytes


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Images (N, C, H, W), uint8 or float, and their labels (N), int64, counted from 0."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.shape != self.images.shape[:1]:
            shapes = f"images {tuple(self.images.shape)}, labels {tuple(self.labels.shape)}"
            raise BadFile("images and labels do not belong together.", there=shapes)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Pictures:
        """The first `count` of them."""
        return Pictures(self.images[:count], self.labels[:count])

    def shuffled(self, seed: int = 0) -> Pictures:
        """The same pictures in an order that depends on `seed` alone."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).to(self.labels.device)
        return Pictures(self.images[order], self.labels[order])

    def to(self, device: torch.device | str) -> Pictures:
        """The same pictures on `device`."""
        return Pictures(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Pictures to train on, pictures to test on (None where they were not read), and the classes by name."""

    name: str
    classes: tuple[str, ...]
    train: Pictures | None
    test: Pictures | None

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on `device`."""
        train, test = (None if part is None else part.to(device) for part in (self.train, self.test))
        return replace(self, train=train, test=test)


def digits(test_share: float = 0.2, seed: int = 0) -> ImageSet:
    """Handwritten digits that come with scikit-learn: 1,797 grey images (N, 1, 8, 8), float in [0, 1].

    The split depends on `seed` alone: the first `round(test_share * 1797)` of a random order are the test part.

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
    """CIFAR-10 from tar files of PNG pictures: uint8 images (N, 3, 32, 32), each file read once and never unpacked.

    `folder` holds `test.tar` and one `SHARD.tar` per name in `shards` (none: no training part); without it,
    `data/cifar10` in the folder that the environment variable SURGERY_DATA names. Training pictures come in an order
    fixed by a seed, because the files are sorted by class.

    Raises:
        UnknownName: a file that is not there.
        BadFile: a file that is not what it should be.
        SurgeryError: no folder given, and SURGERY_DATA is not set.
    """
    place = shared_folder() / "data" / "cifar10" if folder is None else Path(folder)
    read = {name: read_tar(place / f"{name}.tar") for name in (*shards, *(("test",) if test else ()))}
    classes = tuple(sorted({label for _, labels in read.values() for label in labels}))
    number = {label: index for index, label in enumerate(classes)}
    if len(classes) != 10:
        raise BadFile(f"CIFAR-10 has ten classes, these files have {len(classes)}.", there=", ".join(classes))

    def joined(names: Sequence[str]) -> Pictures:
        labels = [number[label] for name in names for label in read[name][1]]
        return Pictures(torch.cat([read[name][0] for name in names]), torch.tensor(labels))

    return ImageSet(
        name="cifar10",
        classes=classes,
        train=joined(shards).shuffled() if shards else None,
        test=joined(["test"]) if test else None,
    )


def shared_folder() -> Path:
    """The folder with data and weights that SURGERY_DATA names.

    Raises:
        SurgeryError: the variable is not set, or names no folder.
    """
    text = os.environ.get("SURGERY_DATA", "")
    if not text or not Path(text).is_dir():
        raise SurgeryError(
            "the folder with data and weights is not known.",
            there=f"SURGERY_DATA={text!r}, which is no folder" if text else "no environment variable SURGERY_DATA",
            try_="SURGERY_DATA=FOLDER, with data/cifar10 and weights in it",
        )
    return Path(text)


def read_tar(file: str | Path) -> tuple[Tensor, list[str]]:
    """Read `.../CLASS/NAME.png` pictures of one size from a tar file: uint8 (N, C, H, W), and the class of each.

    Nothing is written to disk; members that are not plain files are passed over.

    Raises:
        UnknownName: there is no such file.
        BadFile: not a tar file, or a member that is not such a picture.
    """
    path = Path(file)
    if not path.is_file():
        near = [one.name for one in path.parent.glob("*.tar")] if path.parent.is_dir() else []
        raise UnknownName(f"there is no file {path}.", there=", ".join(sorted(near)), try_=nearest(path.name, near))
    images: list[Tensor] = []
    classes: list[str] = []
    for name, content in _members(path):
        where = PurePosixPath(name)
        if where.suffix.lower() != ".png" or len(where.parts) < 2:
            raise BadFile(f"{path.name} holds something that is not CLASS/NAME.png.", there=name)
        images.append(_decoded(content, f"{name} in {path.name}"))
        classes.append(where.parts[-2])
        if images[-1].shape != images[0].shape:
            shapes = f"{tuple(images[0].shape)} and {tuple(images[-1].shape)}"
            raise BadFile(f"{path.name} holds pictures of different sizes.", there=shapes)
    if not images:
        raise BadFile(f"{path.name} holds no picture.")
    return torch.stack(images), classes


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 images (N, 3, H, W) into the floats that networks for ImageNet and our CIFAR networks are fed."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=images.device).view(1, 3, 1, 1)
    return (images.to(torch.float32) / 255.0 - mean) / deviation


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image (N, C, H, W) by up to `padding` pixels, zeros coming in, and mirror every second one.

    Random numbers come from `generator`, which lives on the CPU, so that every device sees the same ones.
    """
    count, _, height, width = images.shape
    device = images.device
    down, right = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(device)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
    rows = down + torch.arange(height, device=device)
    across = torch.arange(width, device=device)
    columns = right + torch.where(mirrored, across.flip(0), across)
    padded = F.pad(images, (padding,) * 4)
    which = torch.arange(count, device=device).view(count, 1, 1)
    picked = padded[which, :, rows.unsqueeze(2), columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2).contiguous()


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stream = archive.extractfile(member)
                if stream is None or member.size > _LARGEST_PICTURE:
                    raise BadFile(f"{path.name} holds something too large for a small picture.", there=member.name)
                yield member.name, stream.read()
    except (tarfile.TarError, OSError) as error:
        raise BadFile(f"{path.name} cannot be read as a tar file.", there=str(error)) from error


def _decoded(content: bytes, what: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if picture.width * picture.height > _LARGEST_PICTURE:
                raise BadFile(f"{what} is too large for a small picture.", there=f"{picture.size} pixels")
            pixels = np.array(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadFile(f"{what} is not a PNG picture.", there=str(error).partition("<")[0]) from error
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)
