"""Save and load: an edited model, or a named unedited one, as plain weights and a small data file."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.activations import row_of
from surgery.edit.rollback import all_or_nothing
from surgery.edit.strategy import children_of, decide
from surgery.edit.write import add_buffers, set_numbers
from surgery.errors import BadValue, NotEdited, SurgeryError, WrongModel, cause_of
from surgery.history.history import histories_of, steps_of
from surgery.history.manual_numbers import SET_BY_HAND, check_numbers
from surgery.history.plan_data import Replay, dropped_by, fingerprint, plan_from_data, register_step, replay_of
from surgery.look.example import Example, unwritten
from surgery.look.finder import find_sites
from surgery.model import M, check_plain
from surgery.plan.plan import Plan
from surgery.schedule.progress import move, named, not_driven, progress_of
from surgery.serialization.model_folder import FORMAT, WEIGHTS, read_steps, write_folder
from surgery.serialization.rehearsal import added_buffers, rehearse, steps_to_write
from surgery.serialization.weights import Weights, check_before, put_weights, tensors_of
from surgery.transforms import apply_plan


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    kwargs: dict[str, Any] | None = None,
    example: Any = None,
) -> None:
    """Write an edited model into a folder: `model.safetensors`, plain weights, and `surgery.json`, its steps.

    With `name` ("timm/resnet18", and `kwargs` for its builder) the file says which model to build, and
    `recipes.load_model(folder)` needs nothing else. A model without edits, such as one that was only pruned, can be
    saved with a name, too: it has no steps, and its weights load anywhere. The files of an earlier call are replaced
    atomically: after an interruption the folder holds either the earlier model or this one, complete.

    Saving proves that loading works: the edits are redone on a copy. If the model was changed otherwise, for example
    with a new head, `load` needs a fresh model with the same change. Of its example, a file keeps the shapes, and the
    values of small tensors; if other values steer the model's control flow, pass an `example` here and to `load`.

    Raises:
        NotEdited: the model is not edited, and there is no name to build it by; save it like any other model.
        CannotLook: a model inside a wrapper, such as a compiled one.
        BadValue: `load` could not rebuild this model, for the reason in the message; `kwargs`, a parameter of an edit,
            or an argument of its example is not plain data; or the edits belong to a model inside this one.
    """
    steps = steps_to_write(model)
    if not steps:
        _check_unedited(model, name)
    for step in steps:
        if step["kind"] == "surgery" and (kinds := unwritten(step["data"]["example"])):
            raise BadValue(
                "An example can be saved only if it is plain data: tensors, numbers, strings, lists, tuples, dicts.",
                asked=", ".join(kinds), try_="transform with an example of plain data",
            )  # fmt: skip
    data: dict[str, Any] = {
        "format": FORMAT,
        "versions": _versions(),
        "kind": type(model).__name__,
        "model": {"name": name, "kwargs": kwargs or {}} if name else None,
        "progress": progress_of(model),
        "steps": steps,
    }
    try:
        data = json.loads(json.dumps(data))
    except (TypeError, ValueError) as error:
        raise BadValue(
            "Only plain data can be saved: numbers, strings, lists, dicts.", asked=str(error),
            try_="plain values in `kwargs` and in the parameters of the rules",
        ) from error  # fmt: skip
    if idle := not_driven(model):
        text = f"{named(idle)} never moved: call surgery.set_progress(model, progress) while the model trains."
        warnings.warn(text, UserWarning, stacklevel=2)
    made = rehearse(model, data["steps"], None if example is None else Example.of(example, model))
    data |= {"fingerprint": made} if made is not None else {}
    data |= {"buffers": added} if (added := added_buffers(model)) else {}
    write_folder(Path(folder), model, data)


def _check_unedited(model: nn.Module, name: str | None) -> None:
    if histories_of(model) and not steps_of(model):
        raise BadValue(
            f"{type(model).__name__} is not edited itself, but a model inside it is.",
            try_="save the model that was transformed",
        )
    if name is None:
        raise NotEdited(
            f"{type(model).__name__} is not edited, so its weights are enough.",
            try_="safetensors.torch.save_model(model, path), or name= for a folder that says which model it is",
        )
    check_plain(model)


def load(folder: str | Path, model: M, example: Any = None) -> M:
    """Turn a fresh model into the saved one, in place: replay the steps, check, load the weights; returns it.

    If the folder contains no edits, only names and shapes of the weights are checked. `model` is built like the
    original before surgery, with its other changes: a model that was saved with a new head is loaded into one with
    the same new head. Its weights do not matter. Nothing is unpickled. `example` replaces the one the model was edited
    on, if the values of that one matter and were too many to be saved. If anything does not fit, the model is left
    unchanged.

    Raises:
        BadFile: the folder is incomplete or damaged, or its weights belong to other edits.
        WrongModel: the fresh model is not the one the steps were made on.
    """
    data = read_steps(folder)
    if steps_of(model):
        raise WrongModel(
            f"This {type(model).__name__} is already edited.", asked=f"{len(steps_of(model))} edits",
            try_="a fresh model, or surgery.undo(model) first",
        )  # fmt: skip
    replays = _replays_of(data)
    sample = None if example is None else Example.of(example, model)
    weights = Weights.of(Path(folder) / WEIGHTS)
    if all(step["kind"] == "surgery" for step in data["steps"]):
        check_plain(model)
        check_before(model, weights, dropped_by(data["steps"]))
    else:
        _restore(copy.deepcopy(model), replays, data, weights, sample)  # steps that cannot be undone are rehearsed
    try:
        return _restored_or_nothing(model, replays, data, weights, sample)
    except SurgeryError:
        raise
    except Exception as error:
        raise WrongModel(f"This {type(model).__name__} cannot become the saved one.", asked=cause_of(error)) from error


def edit_like(model: M, folder: str | Path) -> M:
    """Make the edits of a saved model on a fresh one with another classifier, in place, and load no weights.

    Fingerprints are not compared, since the classifier is part of them: `load` the folder into a model with the
    classifier that was saved, before.

    Raises:
        BadFile, WrongModel: as `load`.
    """
    data = read_steps(folder)
    steps = [{**step, "fingerprint": None} for step in data["steps"]]
    _replay(model, _replays_of(data), {**data, "steps": steps}, Weights.of(Path(folder) / WEIGHTS))
    return model


def _replays_of(data: dict[str, Any]) -> list[Replay]:
    return [replay_of(step["kind"], step["data"].get("package", "")) for step in data["steps"]]


def _restore(
    model: nn.Module, replays: list[Replay], data: dict[str, Any], weights: Weights, example: Example | None
) -> None:
    _replay(model, replays, data, weights, example)
    if data.get("fingerprint") is not None:
        last = next(step["data"]["example"] for step in reversed(data["steps"]) if "example" in step["data"])
        if fingerprint(model, find_sites(model, example or Example.from_data(last))) != data["fingerprint"]:
            raise _other_model(model, "that was saved")
    added = [name for name in data.get("buffers", []) if weights.shape_of(name) is not None and _is_free(model, name)]
    add_buffers(model, weights.read(added))
    put_weights(model, weights)


def _replay(
    model: nn.Module, replays: list[Replay], data: dict[str, Any], weights: Weights, example: Example | None = None
) -> None:
    for step, replay in zip(data["steps"], replays, strict=True):
        replay(model, {**step, "example": example, "weights": weights})
        set_numbers(model, check_numbers(model, step["data"].get(SET_BY_HAND, {})))
    if data["progress"] is not None:
        move(model, *data["progress"])


@all_or_nothing(lambda model, *_: tensors_of(model).values())
def _restored_or_nothing(
    model: M, replays: list[Replay], data: dict[str, Any], weights: Weights, example: Example | None
) -> M:
    _restore(model, replays, data, weights, example)
    return model


def _is_free(model: nn.Module, name: str) -> bool:
    """Whether a buffer of this name could be added."""
    path, _, last = name.rpartition(".")
    module = dict(model.named_modules(remove_duplicate=False)).get(path)
    return module is not None and not hasattr(module, last)


def _other_model(model: nn.Module, what: str) -> WrongModel:
    return WrongModel(
        f"This {type(model).__name__} is not the model {what}: its calls or its weights differ.",
        asked=f"{sum(1 for _ in model.parameters())} parameters",
        try_="build it with the same name, arguments and versions (see surgery.json), and change it likewise",
    )


def _replay_surgery(model: nn.Module, step: dict[str, Any]) -> None:
    sites = find_sites(model, step.get("example") or Example.from_data(step["data"]["example"]))
    now = fingerprint(model, sites)
    plan = plan_from_data(step["data"], sites)
    # Site keys count calls in the source, turns count them in execution: they disagree if a library has rewritten a
    # method since.
    moved = [edit.site.turn for edit in plan.edits] != [edit["turn"] for edit in step["data"]["edits"]]
    if step["fingerprint"] is not None and (now != step["fingerprint"] or moved):
        raise _other_model(model, "the edits were made on")
    apply_plan(model, _with_saved_widths(model, plan, step.get("weights")), look=False)
    steps_of(model)[-1].data.update({key: step["data"][key] for key in ("rules", "asked")})  # the plan has none


def _with_saved_widths(model: nn.Module, plan: Plan, weights: Weights | None) -> Plan:
    """The plan, with parameters per channel where an earlier version saved some though their number varies."""
    varying = [edit for edit in plan.edits if edit.site.channels_vary and row_of(edit.make).learns]
    if weights is None or not varying:
        return plan
    paths = children_of(decide(model, plan), varying)
    saved = {
        edit for edit in varying
        if any(shape[-1:] == (edit.site.channels,) for shape in weights.below(paths[edit.site.key]))
    }  # fmt: skip
    return replace(plan, edits=tuple(replace(edit, per_channel=edit in saved) for edit in plan.edits))


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {"torch": str(torch.__version__)}
    for package in ("activation-surgery", "torchvision", "timm", "torch-pruning"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


register_step("surgery", _replay_surgery)
