"""Checkpoint files: a folder whose index names each file with its digest, so that it is whole at any moment."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from surgery.errors import BadFile, WrongModel
from surgery.files import put_in_place, write_half
from surgery.tensors import Tensors

_ANEW = "a backup of the folder, or another folder to start again"


def write_digested(folder: Path, name: str, write: Callable[[str], object]) -> tuple[str, str]:
    """Write a file under another name, then rename it; returns its name and digest."""
    digest = _digest_of_file(write_half(folder / name, lambda half: write(str(half))))
    put_in_place(folder / name)
    return name, digest


def write_index(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as JSON with a digest of itself."""
    text = json.dumps({**data, "digest": _digest(data)}) + "\n"
    write_digested(path.parent, path.name, lambda half: Path(half).write_text(text))


def read_index(path: Path, format: int) -> dict[str, Any]:
    """Read what `write_index` wrote.

    Raises:
        BadFile: it is not an index, damaged, or in an unknown format.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        digest = data.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadFile(f"{path} cannot be read.", asked=f"{type(error).__name__}: {error}", try_=_ANEW) from error
    if data.get("format") != format:
        raise BadFile(f"{path} has an unknown format.", asked=str(data.get("format")), there=str(format))
    if digest != _digest(data):
        raise BadFile(f"{path} was modified.", try_=_ANEW)
    return data


def remove_stale(folder: Path, parts: re.Pattern[str], files: Mapping[str, tuple[str, str]]) -> None:
    """Remove the files with names like `parts` that an index does not list; other files stay."""
    wanted = [name for name, _ in files.values()]
    for stale in folder.iterdir():
        if parts.fullmatch(stale.name) and stale.name not in wanted:
            stale.unlink(missing_ok=True)


def check_new(folder: Path, index: str, parts: re.Pattern[str]) -> None:
    """Check that a folder without an index does not contain parts, whose second group counts saves from 0.

    Raises:
        BadFile: it does, or it is not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise BadFile(f"{folder} is not a folder.", try_="another path")
    found = (parts.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    if any(match is not None and int(match[2]) > 0 for match in found):  # at 0 the first save was interrupted
        raise BadFile(f"{folder} contains a run, but its {index} is missing.", try_=_ANEW)


def check_same(folder: Path, what: str, asked: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Check that a folder contains the requested run.

    Raises:
        WrongModel: it contains another one, naming the first difference.
    """
    asked = json.loads(json.dumps(dict(asked)))
    for name in sorted({*asked, *there}, key=lambda name: (name == "layout", name)):
        ours, theirs = asked.get(name), there.get(name)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            tensor = next(key for key in [*ours, *theirs] if ours.get(key) != theirs.get(key))
            ours, theirs = (f"{tensor} {table.get(tensor, 'missing')}" for table in (ours, theirs))
        raise WrongModel(
            f"{folder} contains another {what}: {name} differs.", asked=_short(ours), there=_short(theirs),
            try_="another folder, or the same call as before",
        )  # fmt: skip


def checked(path: Path, digest: str, index: str) -> Path:
    """The path of a file that an index lists, after a check that it exists and is undamaged.

    Raises:
        BadFile: it is missing or damaged.
    """
    if not path.is_file():
        raise BadFile(f"{path} is missing, and {index} lists it.", try_=_ANEW)
    if _digest_of_file(path) != digest:
        raise BadFile(f"{path} is damaged: its digest is not that of {index}.", try_=_ANEW)
    return path


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        BadFile: it is not such a file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read.", asked=f"{type(error).__name__}: {error}", try_=_ANEW) from error


def plain(tensors: Tensors) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as safetensors requires."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
