"""Checkpoint: a folder with the state of a run of rounds, consistent at any moment; nothing in it is pickled.

Other packages use the functions below for their folders, too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from pruning.masks.masks import Masks
from pruning.rounds.rewind import put_into, tensors_of
from surgery.checkpoint_files import (
    check_new,
    check_same,
    checked,
    plain,
    read_index,
    read_tensors,
    remove_stale,
    write_digested,
    write_index,
)
from surgery.rng import random_tensors, set_random
from surgery.tensors import Tensors

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
        state = {f"{section}/{name}": tensor for section, part in sections.items() for name, tensor in part.items()}
        files = {
            "state": write_digested(
                self.path, f"state-{count}.safetensors", lambda path: save_file(plain(state), path)
            ),
            "masks": write_digested(self.path, f"masks-{count}.safetensors", progress.masks.save),
        }
        if rewind is not None:
            name = f"rewind-{count}.safetensors"
            files["rewind"] = (
                old["files"]["rewind"]
                if old
                else write_digested(self.path, name, lambda path: save_file(plain(rewind), path))
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
            section: {
                name.partition("/")[2]: tensor for name, tensor in state.items() if name.startswith(f"{section}/")
            }
            for section in _SECTIONS
        }
        progress = {**data["progress"], "before": parts["before"], "movement": parts["movement"]}
        return Saved(
            Progress(**progress, masks=Masks.load(paths["masks"])),
            read_tensors(paths["rewind"]) if "rewind" in paths else None,
            parts["model"],
            frozenset(data["training"]),
            {"python": data["python"], **parts["random"]},
        )

    def _index(self) -> dict[str, Any]:
        return read_index(self.path / INDEX, FORMAT)
