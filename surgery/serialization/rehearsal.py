"""Rehearsal: check, before a model is saved, that replaying its steps as written reproduces it."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from surgery.errors import BadValue, SurgeryError
from surgery.history.history import Step, steps_of
from surgery.history.manual_numbers import SET_BY_HAND, set_since
from surgery.history.plan_data import calls_of, fingerprint, layout, replay_of
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.look.site import Sites
from surgery.model import home_of
from surgery.serialization.weights import tensors_of
from surgery.transforms import undo

Data = dict[str, Any]


def steps_to_write(model: nn.Module) -> list[Data]:
    """The steps of a model as plain data, without edits in parts that were removed since, such as a former head."""
    written = []
    fixed = [step for step in steps_of(model) if step.kind != "surgery"][-1:]  # later ones are redone
    for step in steps_of(model):
        data = step.data if step.kind != "surgery" else {**step.data, "edits": _still_there(model, step)}
        if step in fixed and (by_hand := set_since(model, step)):
            data = {**data, SET_BY_HAND: data.get(SET_BY_HAND, {}) | by_hand}
        if data.get("edits", True):
            written.append({"kind": step.kind, "fingerprint": step.fingerprint, "data": copy.deepcopy(data)})
    return written


def rehearse(model: nn.Module, steps: list[Data], example: Example | None = None) -> str | None:
    """Undo and redo the edits of the model on a copy, and compare; the model is not changed.

    Other changes, such as a new head, are in the copy, too. So the fingerprints in `steps` become those of the model
    that `load` expects: a fresh one with the same changes. Steps before one that cannot be undone cannot be redone;
    then the result is the fingerprint of the model as it is, else None.

    Raises:
        BadValue: the result is a different model; the message names what differs.
    """
    if not steps:
        return None
    last = next((step["data"]["example"] for step in reversed(steps) if "example" in step["data"]), None)
    try:
        sample = example or (Example.from_data(last) if last is not None else Example.of(None, model))
        sites = find_sites(model, sample)
        try:
            _rehearse(scratch_copy(model, meta=True, history=True), model, steps, sites, example)
        except SurgeryError:
            if home_of(model).type == "meta":
                raise
            # If control flow depends on values, a copy without values cannot be run.
            _rehearse(scratch_copy(model, meta=False, history=True), model, steps, sites, example)
    except SurgeryError as error:
        raise BadValue(
            f"Saved as it is, this {type(model).__name__} could not be loaded again.",
            asked="; ".join(line.strip() for line in str(error).splitlines()),
            try_="undo later changes at the edited calls; if it is the values of the example that matter, "
            "save(..., example=...) and load(..., example=...)",
        ) from error
    return fingerprint(model, sites) if _behind(steps) < len(steps) else None


def _rehearse(base: nn.Module, model: nn.Module, steps: list[Data], sites: Sites, example: Example | None) -> None:
    count = _behind(steps)
    if own := _behind([{"kind": step.kind} for step in steps_of(model)]):
        undo(base, own)
    before, again = steps[: len(steps) - count], steps[len(steps) - count :]
    done = steps_of(base)
    if before and done[-1].left != layout(base):
        for step in before:
            step["fingerprint"] = None  # changed since, so the model before it is unknown
    for step in again:
        replay_of("surgery", "")(base, {**step, "fingerprint": None, "example": example})
    for step, made in zip(again, steps_of(base)[len(done) :], strict=True):
        step |= {"fingerprint": made.fingerprint, "data": made.data}
    _compare(base, model, sites)


def added_buffers(model: nn.Module) -> list[str]:
    """The buffers that were added to an edited model since, such as the counters of a profiler."""
    steps, buffers = steps_of(model), {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [name for name in tensors_of(model) if name in buffers - steps[-1].buffers] if steps else []


def _compare(made: nn.Module, model: nn.Module, sites: Sites) -> None:
    """Check that a copy has the same tensors and calls as the model; `load` adds the buffers it lacks."""
    added = added_buffers(model)
    there, here = ({name: tuple(tensor.shape) for name, tensor in tensors_of(part).items()} for part in (made, model))
    for name in [*there, *here]:
        if there.get(name) != here.get(name) and name not in added:
            raise BadValue(
                f"{name} is not what the edits produce.", asked=_shape(there.get(name)), there=_shape(here.get(name))
            )
    calls, wanted = calls_of(find_sites(made, sites.example)), calls_of(sites)
    if calls != wanted:
        differing = [f"{call[-1]} at {call[0] or 'the top'}" for call in (*wanted, *calls)
                     if (call in wanted) != (call in calls)]  # fmt: skip
        raise BadValue("The activation calls are not those after the edits.", asked=", ".join(differing[:3]))


def _behind(steps: list[Data]) -> int:
    """How many of the last steps are edits, which can be undone and redone."""
    return next((count for count, step in enumerate(reversed(steps)) if step["kind"] != "surgery"), len(steps))


def _still_there(model: nn.Module, step: Step) -> list[Data]:
    """The edits of a step, without those in parts that were removed from the model since.

    What a later step has put another module in the place of was there for the edit, and is when the step is redone.
    """
    places = _replaced_later(model, step)
    here = {id(module) for module in (*model.modules(), *(part for old in places.values() for part in old.modules()))}
    changed = {id(change.module) for change in step.changes}
    if changed <= here:
        return list(step.data["edits"])
    parts = dict(model.named_modules(remove_duplicate=False))
    return [
        edit for edit in step.data["edits"]
        if any(f"{edit['site'][0]}.".startswith(f"{place}.") for place in places)
        or ((owner := parts.get(edit["site"][0])) is not None
            and any(id(module) in changed for module in owner.modules()))
    ]  # fmt: skip


def _replaced_later(model: nn.Module, step: Step) -> dict[str, nn.Module]:
    """The modules that later steps have replaced, by their paths."""
    steps = steps_of(model)
    later = [change for other in steps[steps.index(step) + 1 :] for change in other.changes]
    paths = {id(module): path for path, module in model.named_modules()}
    return {
        f"{paths[id(change.module)]}.{change.name}".lstrip("."): change.before for change in later
        if isinstance(change.before, nn.Module) and id(change.module) in paths
    }  # fmt: skip


def _shape(shape: tuple[int, ...] | None) -> str:
    return str(list(shape)) if shape is not None else "no such tensor"
