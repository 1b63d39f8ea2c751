"""Steps as data: the fingerprint of a model, and plans that are saved to a file and restored on a fresh model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from surgery.errors import BadFile, BadValue, WrongModel, nearest
from surgery.history.history import Step, steps_of
from surgery.history.manual_numbers import SET_BY_HAND, numbers_of, set_since
from surgery.look.site import Site, Sites
from surgery.plan.plan import Edit, Plan
from surgery.plan.rules import Rule

Replay = Callable[[nn.Module, dict[str, Any]], None]
_replays: dict[str, Replay] = {}

MOST_STEPS = 256  # replaying a step means a look at the whole model

# The required entries of a file; the last one is the key of a site.
_STEP = {"kind": str, "fingerprint": str | None, "data": dict}
_DATA = {"example": dict, "rules": list, "asked": list, "edits": list}
_EDIT = {"site": list, "turn": int, "was": str, "make": str, "params": dict, "fade": bool | list, "start": str}
_KEY = (str, str, str, int, int | None, int)


def register_step(kind: str, replay: Replay) -> None:
    """Register another kind of step with `load`: `replay(model, data)` applies it to a fresh model.

    Raises:
        BadValue: this kind is already registered with another function.
    """
    known = _replays.get(kind, replay)
    if _name_of(known) != _name_of(replay):  # reloading a module registers the same function again
        raise BadValue(
            f"Steps of kind {kind!r} are already registered.", asked=_name_of(replay), there=_name_of(known),
            try_="another name for the kind",
        )  # fmt: skip
    _replays[kind] = replay


def _name_of(replay: Replay) -> str:
    return f"{replay.__module__}.{getattr(replay, '__qualname__', repr(replay))}"


def replay_of(kind: str, package: str) -> Replay:
    """The function that replays a kind of step.

    Raises:
        BadFile: the kind is not registered; the message names the package that wrote it.
    """
    if kind not in _replays:
        raise BadFile(
            f"The file has a step of the unknown kind {kind!r}.", there=", ".join(sorted(_replays)),
            try_=f"import {package}, the package that wrote it" if package else "the package that wrote it",
        )  # fmt: skip
    return _replays[kind]


def check_steps(steps: list[Any]) -> None:
    """Check that steps read from a file have all their entries, and that there are not too many.

    Raises:
        BadFile: naming the first entry that is missing or has another type.
    """
    if len(steps) > MOST_STEPS:
        raise BadFile("The file has too many steps.", asked=f"{len(steps)} steps", there=f"at most {MOST_STEPS}")
    for number, step in enumerate(steps, 1):
        _check(step, _STEP, f"step {number}")
        if step["kind"] == "surgery":
            _check(step["data"], _DATA, f"step {number}")
            if not step["data"]["edits"]:
                raise BadFile(f"Step {number} edits nothing.")
            for edit in step["data"]["edits"]:
                _check(edit, _EDIT, f"an edit of step {number}")
                _check(dict(enumerate(edit["site"])), dict(enumerate(_KEY)), f"a site of step {number}")
    for number in range(len(steps), 0, -1):
        if steps[number - 1]["kind"] != "surgery":
            break  # integers may be set up to this step; later edits are redone when a model is saved
        if SET_BY_HAND in steps[number - 1]["data"]:
            raise BadFile(f"Step {number} is an edit that is redone, and cannot set integers on layers.")


def _check(value: Any, parts: dict[Any, Any], what: str) -> None:
    if not isinstance(value, dict):
        raise BadFile(f"The file has {_short(value)} for {what}.")
    for name, kind in parts.items():
        if not isinstance(value.get(name, ...), kind):
            there = _short(value.get(name, "nothing"))
            raise BadFile(f"In {what}, {name!r} is missing or has the wrong type.", asked=there)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def fingerprint(model: nn.Module, sites: Iterable[Site]) -> str:
    """A digest that identifies a model: its activation calls in order, and its parameters' names and shapes."""
    return hashlib.sha256(json.dumps([calls_of(sites), layout(model)]).encode()).hexdigest()


def calls_of(sites: Iterable[Site]) -> list[tuple[str | int, ...]]:
    """The activation calls in order: their key in the code, then what they compute."""
    return [(site.owner, site.method, site.target, site.turn, site.run, site.activation) for site in sites]


def layout(model: nn.Module) -> list[Any]:
    """The names and shapes of the parameters."""
    return [(name, list(value.shape)) for name, value in model.named_parameters()]


def ended(step: Step, model: nn.Module) -> Step:
    """The step, with the state of the model after it, so that later changes by other code can be detected."""
    buffers = frozenset(name for name, _ in model.named_buffers())
    return replace(step, left=layout(model), buffers=buffers, numbers=numbers_of(model))


def forget_where_changed(model: nn.Module) -> None:
    """If other code changed the model since its last step, the earlier fingerprints of its steps are dropped.

    Integers set on layers become part of that step.
    """
    steps = steps_of(model)
    if steps and (by_hand := set_since(model, steps[-1])):
        steps[-1].data[SET_BY_HAND] = by_hand
    if steps and steps[-1].left != layout(model):
        for step in steps:
            step.fingerprint = None


def asked_of(rule: Rule) -> str:
    """What a rule asks for, ignoring `expect`, `optional` and `remaining`."""
    return str(replace(rule, expect=None, optional=False, remaining=False))


def dropped_by(steps: Iterable[dict[str, Any]]) -> list[str]:
    """The paths of the blocks that saved steps drop."""
    edits = [edit for step in steps for edit in step["data"].get("edits", ()) if edit["make"] == "dropped"]
    return [f"{edit['site'][0]}.{edit['site'][2]}".removeprefix(".") for edit in edits]


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """A plan as plain data: its rules, which of them took effect, the keys of its sites and their replacements."""
    because = {edit.because for edit in plan.edits}
    edits = [
        {
            "site": list(edit.site.key), "turn": edit.site.turn, "was": edit.site.activation,
            "make": edit.make, "params": dict(edit.params), "fade": edit.fade, "start": edit.start,
            **({"per_channel": True} if edit.per_channel else {}),
        }
        for edit in plan.edits
    ]  # fmt: skip
    return {
        "example": plan.sites.example.to_data(),
        "rules": [str(rule) for rule in plan.rules],
        "asked": [asked_of(rule) for number, rule in enumerate(plan.rules, 1) if number in because],
        "edits": edits,
    }


def plan_from_data(data: dict[str, Any], sites: Sites) -> Plan:
    """The plan that plain data describes, on the sites of a model.

    Raises:
        WrongModel: the model does not have such a call, or has another activation there.
    """
    by_key = {site.key: site for site in sites.places}
    edits = []
    for saved in data["edits"]:
        key = tuple(saved["site"])
        site = by_key.get(key)
        if site is None or site.activation != saved["was"]:
            raise WrongModel(
                f"The saved edits do not fit: {saved['was']} at {key[0] or 'the top'}, call {key[3]} of {key[2]}.",
                asked=f"a model with {site.activation if site else 'no call'} there",
                try_=nearest(str(key[0]), {site.owner for site in sites}) or "the model the edits were made on",
            )
        fade = tuple(saved["fade"]) if isinstance(saved["fade"], list) else saved["fade"]
        params, own = tuple(sorted(saved["params"].items())), bool(saved.get("per_channel", False))
        edits.append(Edit(site, saved["make"], params, fade, 1, saved["start"], own))
    kept = tuple((site, "not in the saved edits") for site in sites if site not in {edit.site for edit in edits})
    return Plan(sites, (), tuple(edits), kept)
