"""Image files, in a folder or inside a tar file: where each is, its class, and its pixels."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgery.errors import BadFile

T = TypeVar("T")

KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")

_MOST_DAMAGED = 0.1  # of the images of a split
_NAMED = 10  # damaged images, each by a warning

_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
_LARGEST_PICTURE = 1 << 20  # bytes of a file, and pixels; a picture of 32 x 32 pixels has about 2,000 bytes


class MixedSizes(BadFile):
    """Images that should have the same size and do not."""


class Damaged(BadFile):
    """A file that should be an image, and cannot be decoded."""


class DamagedImage(UserWarning):
    """An image is left out, since it cannot be decoded."""


@dataclass(slots=True)
class Damage:
    """The damaged images among `of`: the first ones are named in warnings, and very many are an error."""

    of: int
    found: set[str] = field(default_factory=set)

    def add(self, error: Damaged) -> None:
        """Take note of a damaged image; one that is known already changes nothing.

        Raises:
            BadFile: more than a tenth of the images, and more than two, are damaged.
        """
        if str(error) in self.found:
            return
        self.found.add(str(error))
        count = len(self.found)
        sentence, *facts = str(error).splitlines()
        if count > max(2, _MOST_DAMAGED * self.of):
            raise BadFile(f"{count} of {self.of:,} images are damaged.", asked=sentence)
        if count <= _NAMED or str(count).strip("0") == "1":
            why = "".join(f" ({fact.partition(':')[2].strip()})" for fact in facts[:1])
            so_far = f"{count} damaged image{'s' if count > 1 else ''} so far"
            warnings.warn(f"{sentence.rstrip('.')}{why}: it is left out, {so_far}", DamagedImage, stacklevel=2)


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An encoded image on disk: its class, and which bytes of which file it is (`size` None: all of them)."""

    name: str  # for messages
    label: str
    path: Path
    start: int = 0
    size: int | None = None

    def content(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadFile: the file can no longer be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start)
                return stream.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise BadFile(f"{self.name} cannot be read.", asked=error.strerror or "") from error

    def opened(self) -> Image.Image:
        """The decoded image, in RGB.

        Raises:
            Damaged: it is not an image.
        """
        return self._opened(self.content(), lambda picture: picture.convert("RGB"))

    def pixels(self, colour: bool = True) -> Tensor:
        """A small image as uint8 (C, H, W); C is 3, or 1 for a grey one unless `colour`.

        Raises:
            Damaged: it is not an image.
            BadFile: it has more than 1 MiB or 1,048,576 pixels.
        """
        content = self.content()
        if len(content) > _LARGEST_PICTURE:
            raise BadFile(f"{self.name} is too large for a small image.", asked=f"{len(content)} bytes")

        def small(picture: Image.Image) -> Image.Image:
            if picture.width * picture.height > _LARGEST_PICTURE:
                raise BadFile(f"{self.name} is too large for a small image.", asked=f"{picture.size} pixels")
            return picture.convert("RGB" if colour or picture.mode not in ("1", "L") else "L")

        pixels = np.array(self._opened(content, small))
        return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)

    def measured(self) -> tuple[int, int]:
        """Width and height in pixels, without decoding.

        Raises:
            Damaged: it is not an image.
        """
        return self._opened(self.content(), lambda picture: picture.size)

    def _opened(self, content: bytes, look: Callable[[Image.Image], T]) -> T:
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                return look(picture)
        except BadFile:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            kind = PurePosixPath(self.name.split(" in ")[0]).suffix.removeprefix(".").upper()
            raise Damaged(f"{self.name} is not a {kind} image.", asked=str(error).partition("<")[0]) from error


def decoded(
    files: Sequence[PictureFile], damage: Damage | None = None, *, colour: bool = True
) -> tuple[Tensor, list[int]]:
    """Decode small images of one size: uint8 (N, C, H, W), and which of the files they are.

    Damaged ones are left out and noted in `damage`; without it they are an error.

    Raises:
        MixedSizes: they have different sizes.
        Damaged: a file is not an image, and no damage is accepted.
        BadFile: there are none, or a file is not a small image; the message names it.
    """
    images, kept = torch.empty(0, dtype=torch.uint8), list[int]()
    for index, file in enumerate(files):
        try:
            pixels = file.pixels(colour)
        except Damaged as error:
            if damage is None:
                raise
            damage.add(error)
            continue
        if not kept:
            images = torch.empty(len(files), *pixels.shape, dtype=torch.uint8)
        elif pixels.shape != images.shape[1:]:
            shapes = f"{tuple(images.shape[1:])} and {tuple(pixels.shape)}, {files[kept[0]].name} and {file.name}"
            raise MixedSizes("images of different sizes.", asked=shapes)
        images[len(kept)] = pixels
        kept.append(index)
    if not kept:
        raise BadFile("no images.")
    return images[: len(kept)], kept


def list_tree(folder: Path) -> list[PictureFile]:
    """The images of a folder with one folder per class, sorted by class and name.

    The folder of a class may contain subfolders; hidden files and those of other kinds than KINDS are skipped.

    Raises:
        BadFile: there are no classes, or a class has no images.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise BadFile(f"{folder} does not have a folder per class.", try_=f"{folder.name}/CLASS/*.png")
    found: list[PictureFile] = []
    for label in classes:
        paths = sorted(_pictures_in(folder / label))
        if not paths:
            raise BadFile(f"the class {label} in {folder} has no images.", there=f"files {', '.join(KINDS)} are read")
        found += [PictureFile(path.relative_to(folder.parent).as_posix(), label, path) for path in paths]
    return found


def _pictures_in(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(KINDS) and not name.startswith("."):
                yield Path(place, name)
