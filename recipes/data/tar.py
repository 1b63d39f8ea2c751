"""Tar: images in tar files, read without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from torch import Tensor

from recipes.data.image_files import KINDS, MixedSizes, PictureFile, decoded
from surgery.errors import BadFile, UnknownName, nearest


def read_tar(file: str | Path) -> tuple[Tensor, list[str]]:
    """Read `.../CLASS/NAME.png` images of one size from a tar file: uint8 (N, C, H, W), and the class of each.

    Nothing is written to disk; members that are not plain files are skipped.

    Raises:
        UnknownName: there is no such file.
        BadFile: it is not a tar file, or a member is not such an image.
    """
    path = Path(file)
    files = list_tar(path, kinds=(".png",))
    try:
        return decoded(files, colour=False)[0], [picture.label for picture in files]
    except MixedSizes as error:
        shapes = str(error).partition("got:")[2].strip()
        raise MixedSizes(f"{path.name} contains images of different sizes.", asked=shapes) from None


def list_tar(path: Path, kinds: Sequence[str] = KINDS) -> list[PictureFile]:
    """The `.../CLASS/NAME.png` images of a tar file, in its order; members that are not plain files are skipped.

    Raises:
        UnknownName: there is no such file.
        BadFile: it is not an uncompressed tar file, contains no image, or a member is not named like one.
    """
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.tar")] if path.parent.is_dir() else []
        raise UnknownName(f"no file {path}.", there=", ".join(sorted(near)), try_=nearest(path.name, near))
    found = []
    for name, start, size in _members(path):
        where = PurePosixPath(name)
        if where.suffix.lower() not in kinds or len(where.parts) < 2:
            raise BadFile(f"{path.name} contains something that is not CLASS/NAME{kinds[0]}.", asked=name)
        found.append(PictureFile(f"{name} in {path.name}", where.parts[-2], path, start, size))
    if not found:
        raise BadFile(f"{path.name} contains no images.")
    return found


def _members(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, offset and size of each plain file, in bytes."""
    status = path.stat()
    return _members_of(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)  # a header is read for every image: seconds for 60,000 of them
def _members_of(path: Path, changed: int, size: int) -> tuple[tuple[str, int, int], ...]:
    """The same; a file that was written since then has another time or size, and is read again."""
    try:
        with tarfile.open(path, "r:") as archive:
            plain = [member for member in archive if member.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise BadFile(f"{path.name} cannot be read as a tar file.", asked=str(error)) from error
    for member in plain:
        if member.issparse():
            raise BadFile(f"{path.name} contains a sparse file, which cannot be read in place.", asked=member.name)
    return tuple((member.name, member.offset_data, member.size) for member in plain)
