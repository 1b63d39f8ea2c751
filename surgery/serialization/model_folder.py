"""Model folder: write and read the two files of a saved model, weights and steps, which belong together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from surgery.errors import BadFile
from surgery.files import half_of, put_in_place, write_half
from surgery.history.plan_data import check_steps
from surgery.serialization.weights import write_weights

FORMAT = 1
WEIGHTS, STEPS = "model.safetensors", "surgery.json"
# Keys of the weights' metadata for the digest of the steps. Weights without edits are those of the plain model, and may
# be loaded as such; a reader that only knows the first key rightly rejects them as an edited model.
EDITED, UNEDITED = "surgery", "surgery: no edits"
LONGEST = 64 * 2**20  # bytes of a file with steps

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)


def write_folder(folder: Path, model: nn.Module, data: dict[str, Any]) -> None:
    """Write the weights of a model and its steps, replacing those of an earlier call.

    The weights name the steps they belong to: once the weights are renamed, the folder holds the new model. If the
    process ends right then, the steps are found under their temporary name, see `steps_file`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, steps = folder / WEIGHTS, folder / STEPS
    if steps_file(folder) != steps:
        put_in_place(steps)  # an earlier call was interrupted here
    try:
        write_half(weights, lambda half: write_weights(model, half, {_mark(data): _digest(data)}))
        write_half(steps, lambda half: half.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8"))
        put_in_place(weights)
    finally:
        if half_of(weights).exists():
            half_of(weights).unlink()
            half_of(steps).unlink(missing_ok=True)
    put_in_place(steps)


def steps_file(folder: Path) -> Path:
    """The file with the steps of the weights in a folder: `surgery.json`, except after an interrupted write."""
    steps, weights = folder / STEPS, folder / WEIGHTS
    return half_of(steps) if _belong(half_of(steps), weights) and not _belong(steps, weights) else steps


def read_steps(folder: str | Path) -> dict[str, Any]:
    """The content of `surgery.json` in a folder, checked against the weights next to it.

    Raises:
        BadFile: a file is missing, has an unknown format, or does not belong to the other.
    """
    target = Path(folder)
    steps, weights = steps_file(target), target / WEIGHTS
    for file in (steps, weights):
        if not file.is_file():
            raise BadFile(
                f"{target} has no {file.name}.", try_="a folder written by surgery.save",
                there=", ".join(sorted(file.name for file in target.glob("*"))[:6]) or "an empty folder",
            )  # fmt: skip
    if steps.stat().st_size > LONGEST:
        raise BadFile(f"{STEPS} is too long.", asked=f"{steps.stat().st_size} bytes", there=f"at most {LONGEST}")
    try:
        data, metadata = _parsed(steps), _metadata(weights)
    except _UNREADABLE as error:
        raise BadFile(f"{target} cannot be read.", asked=f"{type(error).__name__}: {error}") from error
    if metadata.get(_mark(data)) != _digest(data):
        ours = EDITED in metadata or UNEDITED in metadata
        there = "weights of another edit, or an edited file" if ours else "weights of an unedited model"
        raise BadFile(
            f"{WEIGHTS} and {STEPS} do not belong together.", asked=there, try_="save the model again, to a new folder"
        )
    check_steps(data["steps"])
    if data["progress"] is not None and not _is_progress(data["progress"]):
        raise BadFile(f"{STEPS} has an invalid progress.", asked=repr(data["progress"]), there="[fraction, step]")
    return data


def _is_progress(value: list[Any]) -> bool:
    kinds = [type(part) for part in value]
    return kinds in ([float, int], [int, int]) and 0 <= value[0] <= 1 and value[1] >= 0


def _belong(steps: Path, weights: Path) -> bool:
    try:
        if steps.stat().st_size > LONGEST:
            return False
        data = _parsed(steps)
        return _metadata(weights).get(_mark(data)) == _digest(data)
    except (*_UNREADABLE, OSError, BadFile):
        return False


def _parsed(steps: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(steps.read_text(encoding="utf-8"))
    known = data["format"] == FORMAT and isinstance(data["steps"], list) and isinstance(data["model"], dict | None)
    known = known and isinstance(data["progress"], list | None) and isinstance(data.get("fingerprint"), str | None)
    if not known or not all(isinstance(name, str) for name in data.get("buffers", [])):
        raise BadFile(f"{STEPS} has an unknown format.", asked=f"format {data['format']}", there=f"format {FORMAT}")
    return data


def _metadata(weights: Path) -> dict[str, str]:
    with safe_open(str(weights), framework="pt") as file:
        return dict(file.metadata() or {})


def _mark(data: dict[str, Any]) -> str:
    return EDITED if data["steps"] else UNEDITED


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
