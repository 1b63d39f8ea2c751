"""Keep: an edited model, or a named one as it is, as plain weights and one small data file, and back again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from surgery.errors import BadFile, BadValue, NotEdited, WrongModel
from surgery.example import Example, unwritten
from surgery.fading import progress_of, set_progress
from surgery.find import check_plain, find_sites
from surgery.history import histories_of, history_of
from surgery.steps import Replay, check_steps, fingerprint, plan_from_data, register_step, replay_of
from surgery.transform import apply_plan, undo

FORMAT = 1
WEIGHTS, STEPS = "model.safetensors", "surgery.json"
# Where the metadata of the weights hold the digest of the steps. Weights without edits are those of the plain model,
# and may be loaded as such; a reader that looks for the first mark alone refuses the others, rightly.
EDITED, UNEDITED = "surgery", "surgery: no edits"


def save(
    model: nn.Module, folder: str | Path, *, name: str | None = None, kwargs: dict[str, Any] | None = None
) -> None:
    """Write an edited model into a folder: `model.safetensors`, plain weights, and `surgery.json`, its steps.

    With `name` ("timm/resnet18", and `kwargs` for its builder) the file says which model to build, and
    `recipes.load_model(folder)` needs nothing else. A model without edits, such as one that was only pruned, can be
    saved under its name, too: its steps are none, and its weights load anywhere. What an earlier call wrote into the
    folder is replaced, and only once both files are whole.

    Raises:
        NotEdited: the model carries no edit, and no name to build it by; save it as any other model.
        CannotLook: a model inside a wrapper, such as a compiled one.
        BadValue: `kwargs`, a parameter of an edit, or an argument of its example is no plain data; or the edits are
            those of a model inside this one.
    """
    steps = history_of(model)
    if not steps:
        _check_unedited(model, name)
    for step in steps:
        if step.kind == "surgery" and (kinds := unwritten(step.data["example"])):
            raise BadValue(
                "An example can be saved if it holds plain data only: tensors, numbers, strings, lists, tuples, dicts.",
                there=", ".join(kinds), try_="transform with an example of plain data",
            )  # fmt: skip
    data: dict[str, Any] = {
        "format": FORMAT,
        "versions": _versions(),
        "kind": type(model).__name__,
        "model": {"name": name, "kwargs": kwargs or {}} if name else None,
        "progress": progress_of(model),
        "steps": [{"kind": step.kind, "fingerprint": step.fingerprint, "data": step.data} for step in steps],
    }
    try:
        text = json.dumps(data, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise BadValue(
            "Only plain data can be saved: numbers, strings, lists, dicts.", there=str(error),
            try_="plain values in `kwargs` and in the parameters of the rules",
        ) from error  # fmt: skip
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    parts = [target / f"{one}.part" for one in (WEIGHTS, STEPS)]
    try:
        save_model(model, str(parts[0]), metadata={_mark(data): _digest(data)})
        parts[1].write_text(text, encoding="utf-8")
        for part in parts:
            os.replace(part, part.with_suffix(""))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _check_unedited(model: nn.Module, name: str | None) -> None:
    if histories_of(model):
        raise BadValue(
            f"{type(model).__name__} carries no edit itself, but a model inside it does.",
            try_="saving the model that was transformed",
        )
    if name is None:
        raise NotEdited(
            f"{type(model).__name__} carries no edit, so its weights say everything.",
            try_="safetensors.torch.save_model(model, path), or name= for a folder that says which model it is",
        )
    check_plain(model)


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """Make a fresh model into the saved one, in place: replay the steps, check, load the weights; returns it.

    Where the folder holds no edits there is nothing to replay, and only names and shapes of the weights are checked.
    `model` is built as the original was before surgery; its own weights do not matter. Nothing is unpickled. If
    anything does not fit, the model is as it was before.

    Raises:
        BadFile: the folder is incomplete or was altered, or its weights belong to other edits.
        WrongModel: the fresh model is not what the steps were made on.
    """
    data = read_steps(folder)
    if history_of(model):
        raise WrongModel(
            f"This {type(model).__name__} is edited already.", there=f"{len(history_of(model))} edits",
            try_="a fresh model, or surgery.undo(model) first",
        )  # fmt: skip
    replays = [replay_of(step["kind"], step["data"].get("package", "")) for step in data["steps"]]
    if any(step["kind"] != "surgery" for step in data["steps"]):
        _restore(copy.deepcopy(model), replays, data, folder)  # such steps cannot be taken back: rehearse them
    try:
        _restore(model, replays, data, folder)
    except BaseException:
        if history_of(model):
            undo(model)
        raise
    return model


def _restore(model: nn.Module, replays: list[Replay], data: dict[str, Any], folder: str | Path) -> None:
    for step, replay in zip(data["steps"], replays, strict=True):
        replay(model, step)
    if data["progress"] is not None:
        set_progress(model, *data["progress"])
    _load_weights(model, Path(folder) / WEIGHTS)


def read_steps(folder: str | Path) -> dict[str, Any]:
    """What `surgery.json` in a folder says, checked against the weights beside it.

    Raises:
        BadFile: a file is missing, is not ours, or does not belong to the other.
    """
    target = Path(folder)
    for name in (STEPS, WEIGHTS):
        if not (target / name).is_file():
            raise BadFile(
                f"{target} has no {name}.", there=", ".join(sorted(p.name for p in target.glob("*"))[:6]) or "nothing",
                try_="a folder written by surgery.save",
            )  # fmt: skip
    try:
        data = json.loads((target / STEPS).read_text(encoding="utf-8"))
        known = data["format"] == FORMAT and isinstance(data["steps"], list) and isinstance(data["model"], dict | None)
        known = known and isinstance(data["progress"], list | None)
        with safe_open(str(target / WEIGHTS), framework="pt") as file:
            metadata = file.metadata() or {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise BadFile(f"{target} cannot be read.", there=f"{type(error).__name__}: {error}") from error
    if not known:
        raise BadFile(f"{STEPS} has another format.", asked=f"format {FORMAT}", there=f"format {data['format']}")
    if metadata.get(_mark(data)) != _digest(data):
        ours = EDITED in metadata or UNEDITED in metadata
        there = "weights of another edit, or an edited file" if ours else "weights of an unedited model"
        raise BadFile(
            f"{WEIGHTS} and {STEPS} do not belong together.", there=there, try_="save the model again, to a new folder"
        )
    check_steps(data["steps"])
    if data["progress"] is not None and [type(part) for part in data["progress"]] not in ([float, int], [int, int]):
        raise BadFile(f"{STEPS} has another kind of progress.", asked="[fraction, step]", there=repr(data["progress"]))
    return data  # type: ignore[no-any-return]


def _replay_surgery(model: nn.Module, step: dict[str, Any]) -> None:
    try:
        example = Example.from_shapes(step["data"]["example"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadFile("The file describes no example that can be made.", there=str(step["data"]["example"])) from error
    sites = find_sites(model, example)
    now = fingerprint(model, sites)
    plan = plan_from_data(step["data"], sites)
    # The keys of sites count calls as they are written, the turns as they run: where a library has rewritten a method
    # meanwhile, they part.
    moved = [edit.site.turn for edit in plan.edits] != [edit["turn"] for edit in step["data"]["edits"]]
    if step["fingerprint"] is not None and (now != step["fingerprint"] or moved):
        raise WrongModel(
            f"This {type(model).__name__} is not the model the edits were made on: other calls, or other weights.",
            there=f"{len(sites)} activation calls, {sum(1 for _ in model.parameters())} parameters",
            try_="build it with the same name, arguments and versions (see surgery.json)",
        )
    apply_plan(model, plan, look=False)
    history_of(model)[-1].data.update({key: step["data"][key] for key in ("rules", "asked")})  # the plan has none


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load strictly, after checking that every name and shape fits, so that nothing is half loaded."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    with safe_open(str(path), framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        shared = set(file.metadata() or {}) - {EDITED, UNEDITED, "format"}
    missing = sorted(set(wanted) - set(found) - shared)
    wrong = sorted(name for name in found if name in wanted and wanted[name] != found[name])
    strange = sorted(set(found) - set(wanted))
    if missing or wrong or strange:
        raise WrongModel(
            "The saved weights do not fit this model.",
            asked=f"{len(wanted)} tensors",
            there="; ".join(
                f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                for what, names in (("missing", missing), ("other shape", wrong), ("unknown", strange))
                if names
            ),
            try_="build the model with the same arguments",
        )
    load_model(model, path, strict=True)


def _mark(data: dict[str, Any]) -> str:
    return EDITED if data["steps"] else UNEDITED


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {"torch": str(torch.__version__)}
    for package in ("activation-surgery", "torchvision", "timm", "torch-pruning"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


register_step("surgery", _replay_surgery)
