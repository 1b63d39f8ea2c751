"""Checkpoint: a folder with the state of a training, consistent at any moment; nothing in it is pickled."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

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
from surgery.errors import BadFile, WrongModel
from surgery.processes import gathered, is_first, rank
from surgery.rng import random_tensors, set_random
from surgery.tensors import Tensors

FORMAT = 1
INDEX = "training.json"
_PART = re.compile(r"(weights|optimizer|random)-(\d+)\.safetensors(\.tmp)?")


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of a training: the next epoch and batch, and the number of steps so far.

    `loss` is the sum of the losses of this epoch's steps so far, `progress` and `step` were last set on the model.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    loss: float = 0.0
    progress: float = 0.0
    step: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of a training with state. A finished one has only a model; `scaler` is a `torch.amp.GradScaler`."""

    model: nn.Module
    average: nn.Module | None = None
    optimizer: Optimizer | None = None
    scaler: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """The content of a folder, read and checked."""

    moment: Moment
    path: Path
    weights: Tensors
    tensors: Tensors
    optimizer: Mapping[str, Any] | None
    scaler: Mapping[str, Any] | None
    random: Mapping[str, Any]

    def restore(self, parts: Parts) -> None:
        """Restore all parts, and the random generators of this process, in place.

        Raises:
            WrongModel: the weights belong to another model; nothing has changed.
        """
        pairs = [("model", parts.model)] + ([("average", parts.average)] if parts.average is not None else [])
        for section, module in pairs:
            self._check(section, module)
        for section, module in pairs:
            put_into(module, _of(section, self.weights))
        if parts.optimizer is not None and self.optimizer is not None:
            _restore_optimizer(parts.optimizer, self.optimizer, self.tensors)
        if parts.scaler is not None and self.scaler is not None:
            parts.scaler.load_state_dict(dict(self.scaler))
        set_random(self.random)

    def _check(self, section: str, module: nn.Module) -> None:
        there = {name: tensor.shape for name, tensor in _of(section, self.weights).items()}
        own = {name: tensor.shape for name, tensor in tensors_of(module).items()}
        if own != there:
            wrong = next(name for name in [*own, *there] if own.get(name) != there.get(name))
            raise WrongModel(
                f"{self.path} contains the weights of another model: {wrong} differs.",
                asked=str(tuple(own.get(wrong, ()))), there=str(tuple(there.get(wrong, ()))),
                try_="the model that the training began with",
            )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The folder of one training, identified by `start`, its inputs as plain data.

    A save writes new files, then replaces the index, which lists them with their digests, then removes the old ones:
    whenever the process is killed, the index and its files are complete. Of several processes the first one writes,
    and all read: they share the folder. With `reuse`, the checkpoint of another training is not an error, but replaced
    by the first save.
    """

    path: Path
    start: Mapping[str, Any]
    reuse: bool = False

    def save(self, parts: Parts, moment: Moment) -> None:
        """Save the state of the training. All processes of a training call it, at the same step."""
        states = gathered((random_tensors(), random.getstate()))
        if not is_first():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        count = self._index()["count"] + 1 if (self.path / INDEX).is_file() else 0
        weights = {f"model/{name}": tensor for name, tensor in tensors_of(parts.model).items()}
        if parts.average is not None:
            weights |= {f"average/{name}": tensor for name, tensor in tensors_of(parts.average).items()}
        optimizer, tensors = _split_optimizer(parts.optimizer) if parts.optimizer is not None else (None, {})
        drawn = {f"{rank}/{name}": tensor for rank, (state, _) in enumerate(states) for name, tensor in state.items()}
        files = {}
        for section, content in (("weights", weights), ("optimizer", tensors), ("random", drawn)):
            files[section] = self._write(f"{section}-{count}.safetensors", content)
        data = {
            "format": FORMAT, "count": count, "start": dict(self.start), "moment": asdict(moment), "files": files,
            "optimizer": optimizer, "scaler": parts.scaler.state_dict() if parts.scaler is not None else None,
            "python": [python for _, python in states],
        }  # fmt: skip
        write_index(self.path / INDEX, data)
        remove_stale(self.path, _PART, files)

    def load(self) -> Saved | None:
        """The last save, None without one. Nothing changes.

        Raises:
            BadFile: a file is missing, damaged or in an unknown format.
            WrongModel: the folder contains a training with other inputs (unless `reuse`).
        """
        if not (self.path / INDEX).is_file():
            check_new(self.path, INDEX, _PART)
            return None
        data = self._index()
        try:
            check_same(self.path, "training", self.start, data["start"])
        except WrongModel:
            if self.reuse:
                return None
            raise
        paths = {part: checked(self.path / name, digest, INDEX) for part, (name, digest) in data["files"].items()}
        number = rank()
        return Saved(
            Moment(**data["moment"]), self.path, read_tensors(paths["weights"]), read_tensors(paths["optimizer"]),
            data["optimizer"], data["scaler"],
            {**_of(str(number), read_tensors(paths["random"])), "python": data["python"][number]},
        )  # fmt: skip

    def _index(self) -> dict[str, Any]:
        return read_index(self.path / INDEX, FORMAT)

    def _write(self, name: str, tensors: Tensors) -> tuple[str, str]:
        return write_digested(self.path, name, lambda path: save_file(plain(tensors), path))


def check_together(saved: Saved | None) -> None:
    """Check that all processes read the same checkpoint.

    Raises:
        BadFile: they differ.
    """
    moments = gathered(saved.moment if saved is not None else None)
    if any(moment != moments[0] for moment in moments):
        raise BadFile("The processes found different checkpoints.", asked=str(moments), try_="a folder they all share")


def _of(section: str, tensors: Tensors) -> dict[str, Tensor]:
    head = f"{section}/"
    return {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}


def _split_optimizer(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of an optimiser as plain data, and the tensors of it."""
    whole = optimizer.state_dict()
    tensors, rest = {}, []
    for place, state in whole["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{place}/{key}"] = value
            else:
                rest.append([place, key, value])
    groups = []
    for place, group in enumerate(whole["param_groups"]):  # some optimisers count their steps in tensors here
        counted = {key: value for key, value in group.items() if isinstance(value, Tensor)}
        tensors |= {f"group {place}/{key}": value for key, value in counted.items()}
        groups.append({key: value for key, value in group.items() if key not in counted})
    return {"state": rest, "groups": groups}, tensors


def _restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], tensors: Tensors) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        place, _, key = name.partition("/")
        if place.startswith("group "):
            continue
        param = params[int(place)]
        # In the memory layout of the weight, as the optimiser made it, so that sums over it stay the same.
        like = torch.empty_like(param, dtype=value.dtype) if value.shape == param.shape else None
        state.setdefault(int(place), {})[key] = value.clone() if like is None else like.detach().copy_(value)
    for place, key, value in saved["state"]:
        state.setdefault(place, {})[key] = value
    groups = []
    for number, own in enumerate(optimizer.state_dict()["param_groups"]):
        pairs = {key: tuple(value) if isinstance(own.get(key), tuple) else value
                 for key, value in saved["groups"][number].items()}  # fmt: skip
        groups.append(pairs | _of(f"group {number}", tensors))
    optimizer.load_state_dict({"state": state, "param_groups": groups})
