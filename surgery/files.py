"""Files: atomic writes; a file is written whole or not at all, even if the process is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def half_of(path: Path) -> Path:
    """The temporary name a file is written under before it is renamed."""
    return path.with_name(f"{path.name}.tmp")


def write_half(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` write the file `path` under its temporary name, and sync it to disk; return that name."""
    half = half_of(path)
    write(half)
    with half.open("r+b") as file:
        os.fsync(file.fileno())
    return half


def put_in_place(path: Path) -> None:
    """Rename a file that `write_half` wrote to its final name: readers see the old file or the new one."""
    os.replace(half_of(path), path)
    if os.name == "posix":  # the rename is durable once the folder is synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write the file `path` atomically: complete when this returns, unchanged if anything fails."""
    try:
        write_half(path, write)
        put_in_place(path)
    finally:
        half_of(path).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically."""
    write_whole(path, lambda half: half.write_text(text, encoding="utf-8"))
