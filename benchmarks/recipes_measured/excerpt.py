"""Excerpt: a part of CIFAR-10 as smaller files, since listing all of it takes seconds in every run."""

from __future__ import annotations

import tarfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.recipes_measured.protocol import Protocol
from recipes.data import shared_folder


def excerpt(folder: Path, protocol: Protocol) -> Path:
    """The folder of the images that a protocol needs, evenly from all classes; written once."""
    place, source = folder / "cifar10", shared_folder() / "data" / "cifar10"
    place.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", protocol.first_images), ("test", protocol.test_images)):
        if not (place / f"{part}.tar").is_file():
            copy_evenly(sorted(source.glob(f"{part}*.tar")), place / f"{part}.tar", count)
    return place


def copy_evenly(sources: list[Path], target: Path, count: int) -> None:
    """Write `count` files of some tar files, by their names at equal distances, into another one.

    Raises:
        ValueError: there are fewer.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(tarfile.open(source)) for source in sources]
        files = sorted(
            ((member, tar) for tar in opened for member in tar if member.isfile()), key=lambda pair: pair[0].name
        )
        if count > len(files):
            raise ValueError(f"there are {len(files)} files in {', '.join(map(str, sources))}, not {count}")
        half = target.with_suffix(".part")  # an interrupted copy is not taken for a whole one
        with tarfile.open(half, "w") as out:
            for index in range(count):
                member, tar = files[index * len(files) // count]
                out.addfile(member, tar.extractfile(member))
        half.rename(target)
