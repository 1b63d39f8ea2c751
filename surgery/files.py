"""Files: each is written whole or not at all, whatever breaks off the writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def half_of(path: Path) -> Path:
    """The name under which a file is written before it takes its own."""
    return path.with_name(f"{path.name}.tmp")


def write_half(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` write what will be the file `path` under another name, down to the disk; returns that name."""
    half = half_of(path)
    write(half)
    with half.open("r+b") as file:
        os.fsync(file.fileno())
    return half


def put_in_place(path: Path) -> None:
    """Give a file that `write_half` wrote its own name: whoever reads sees the old one or the new one."""
    os.replace(half_of(path), path)
    if os.name == "posix":  # the name is on the disk once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write the file `path`: it is there when this returns, and is as it was if anything fails."""
    try:
        write_half(path, write)
        put_in_place(path)
    finally:
        half_of(path).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text into a file, whole or not at all."""
    write_whole(path, lambda half: half.write_text(text, encoding="utf-8"))
