"""Image files, in a folder or inside a tar file: where each is, its class, and its pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgery.errors import BadFile

T = TypeVar("T")

KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")

_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
_LARGEST_PICTURE = 1 << 20  # bytes of a file, and pixels; a picture of 32 x 32 pixels has about 2,000 bytes


class MixedSizes(BadFile):
    """Images that should have the same size and do not."""


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
            BadFile: it is not an image.
        """
        return self._opened(self.content(), lambda picture: picture.convert("RGB"))

    def pixels(self, colour: bool = True) -> Tensor:
        """A small image as uint8 (C, H, W); C is 3, or 1 for a grey one unless `colour`.

        Raises:
            BadFile: it is not an image, or has more than 1 MiB or 1,048,576 pixels.
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
            BadFile: it is not an image.
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
            raise BadFile(f"{self.name} is not a {kind} image.", asked=str(error).partition("<")[0]) from error


def decoded(files: Sequence[PictureFile], colour: bool = True) -> Tensor:
    """Decode small images of one size: uint8 (N, C, H, W).

    Raises:
        MixedSizes: they have different sizes.
        BadFile: there are none, or a file is not a small image; the message names it.
    """
    if not files:
        raise BadFile("no images.")
    first = files[0].pixels(colour)
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)
    for index, file in enumerate(files):
        pixels = first if index == 0 else file.pixels(colour)
        if pixels.shape != first.shape:
            shapes = f"{tuple(first.shape)} and {tuple(pixels.shape)}, {files[0].name} and {file.name}"
            raise MixedSizes("images of different sizes.", asked=shapes)
        images[index] = pixels
    return images


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
