"""Checkpoint: a folder with the state of a run of rounds, consistent at any moment; nothing in it is pickled.

Other packages use the functions below for their folders, too.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning.masks.masks import Masks
from pruning.rounds.rewind import Tensors, put_into, tensors_of
from surgery.errors import BadFile, WrongModel
from surgery.files import put_in_place, write_half
from surgery.rng import random_tensors, set_random

FORMAT = 1
INDEX = "rounds.json"
_PART = re.compile(r"(state|masks|rewind)-(\d+)\.safetensors(\.tmp)?")
_SECTIONS = ("model", "before", "movement", "random")


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """The state of a run: what comes next, in which round, and the data for the pruner.

    `next` is "train", "cut", "after" or "done"; `number` the round, 0 before the first; `stage` how many of its cuts
    are done; `alive` the number of unpruned weights when it began. `before` and `movement` are those of `Round`.
    """

    next: str
    number: int
    stage: int
    alive: int
    masks: Masks
    before: Tensors
    movement: Tensors


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """The content of a folder, read and checked."""

    progress: Progress
    rewind: Tensors | None
    tensors: Tensors
    training: frozenset[str]
    random: Mapping[str, Any]

    def restore(self, model: nn.Module) -> None:
        """Restore the model, its modes and the random generators of the process, in place."""
        put_into(model, self.tensors)
        for path, module in model.named_modules():
            module.training = path in self.training
        set_random(self.random)


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """The folder of one run, identified by `run`, plain data.

    A save writes new files, then replaces the index, which lists them with their digests, then removes the old ones:
    whenever the process is killed, the index and its files are complete. Only one process at a time may write.
    """

    path: Path
    run: Mapping[str, Any]

    def save(self, model: nn.Module, progress: Progress, rewind: Tensors | None) -> None:
        """Save the state of the run; the state to rewind to is written only once."""
        self.path.mkdir(parents=True, exist_ok=True)
        old = self._index() if (self.path / INDEX).is_file() else None
        count = old["count"] + 1 if old else 0
        sections = {"model": tensors_of(model), "before": progress.before, "movement": progress.movement,
                    "random": random_tensors()}  # fmt: skip
        state = {f"{section}/{name}": one for section, part in sections.items() for name, one in part.items()}
        files = {
            "state": write_whole(self.path, f"state-{count}.safetensors", lambda path: save_file(plain(state), path)),
            "masks": write_whole(self.path, f"masks-{count}.safetensors", progress.masks.save),
        }
        if rewind is not None:
            name = f"rewind-{count}.safetensors"
            files["rewind"] = (
                old["files"]["rewind"]
                if old
                else write_whole(self.path, name, lambda path: save_file(plain(rewind), path))
            )
        stands = {name: getattr(progress, name) for name in ("next", "number", "stage", "alive")}
        data = {"format": FORMAT, "count": count, "run": dict(self.run), "progress": stands, "files": files,
                "training": [path for path, module in model.named_modules() if module.training],
                "python": random.getstate()}  # fmt: skip
        write_index(self.path / INDEX, data)
        self.tidy()

    def tidy(self) -> None:
        """Remove files of earlier saves; other files stay."""
        remove_stale(self.path, _PART, self._index()["files"])

    def load(self, model: nn.Module) -> Saved | None:
        """The last save, None without one. Nothing changes.

        Raises:
            BadFile: a file is missing, damaged or in an unknown format.
            WrongModel: the folder contains another run, or one of another model.
        """
        if not (self.path / INDEX).is_file():
            check_new(self.path, INDEX, _PART)
            return None
        data = self._index()
        check_same(self.path, "run", self.run, data["run"])
        paths = {part: checked(self.path / name, digest, INDEX) for part, (name, digest) in data["files"].items()}
        state = read_tensors(paths["state"])
        parts = {
            section: {name.partition("/")[2]: one for name, one in state.items() if name.startswith(f"{section}/")}
            for section in _SECTIONS
        }
        told = {**data["progress"], "before": parts["before"], "movement": parts["movement"]}
        return Saved(
            Progress(**told, masks=Masks.load(paths["masks"])),
            read_tensors(paths["rewind"]) if "rewind" in paths else None,
            parts["model"],
            frozenset(data["training"]),
            {"python": data["python"], **parts["random"]},
        )

    def _index(self) -> dict[str, Any]:
        return read_index(self.path / INDEX, FORMAT)


_ANEW = "a backup of the folder, or another folder to start again"


def write_whole(folder: Path, name: str, write: Callable[[str], object]) -> tuple[str, str]:
    """Write a file under another name, then rename it; returns its name and digest."""
    digest = _digest_of_file(write_half(folder / name, lambda half: write(str(half))))
    put_in_place(folder / name)
    return name, digest


def write_index(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as JSON with a digest of itself."""
    text = json.dumps({**data, "digest": _digest(data)}) + "\n"
    write_whole(path.parent, path.name, lambda half: Path(half).write_text(text))


def read_index(path: Path, format: int) -> dict[str, Any]:
    """Read what `write_index` wrote.

    Raises:
        BadFile: it is not an index, damaged, or in an unknown format.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        told = data.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadFile(f"{path} cannot be read.", asked=f"{type(error).__name__}: {error}", try_=_ANEW) from error
    if data.get("format") != format:
        raise BadFile(f"{path} has an unknown format.", asked=str(data.get("format")), there=str(format))
    if told != _digest(data):
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
    found = (parts.fullmatch(one.name) for one in folder.iterdir()) if folder.is_dir() else ()
    if any(one is not None and int(one[2]) > 0 for one in found):  # at 0 the first save was interrupted
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
            tensor = next(one for one in [*ours, *theirs] if ours.get(one) != theirs.get(one))
            ours, theirs = (f"{tensor} {told.get(tensor, 'missing')}" for told in (ours, theirs))
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


def _short(told: object) -> str:
    text = json.dumps(told)
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
    return {name: one.detach().to("cpu", copy=True).contiguous() for name, one in tensors.items()}


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
