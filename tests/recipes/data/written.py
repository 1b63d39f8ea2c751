"""Image files for the tests: PNGs, tar files, folders."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(stream, format="PNG")
    return stream.getvalue()


def picture(value: int, size: int = 32) -> Tensor:
    return torch.full((3, size, size), value, dtype=torch.uint8)


def write_tree(folder: Path, pictures: Mapping[str, Tensor]) -> Path:
    """Write images by path below the folder; the suffix, .jpg or .png, gives the format."""
    for name, image in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return folder
