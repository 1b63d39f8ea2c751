"""Steps as data: what identifies a model, and plans that go into a file and come back on a fresh model."""

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

MOST_STEPS = 256  # each is a look at the whole model

# What a file must hold; the last one is the key of a site.
_STEP = {"kind": str, "fingerprint": str | None, "data": dict}
_DATA = {"example": dict, "rules": list, "asked": list, "edits": list}
_EDIT = {"site": list, "turn": int, "was": str, "make": str, "params": dict, "fade": bool | list, "start": str}
_KEY = (str, str, str, int, int | None, int)


def register_step(kind: str, replay: Replay) -> None:
    """Teach `load` another kind of step: `replay(model, data)` does it again to a fresh model.

    Raises:
        BadValue: another function replays this kind already.
    """
    known = _replays.get(kind, replay)
    if _name_of(known) != _name_of(replay):  # a module that was reloaded brings the same function again
        raise BadValue(
            f"Steps of kind {kind!r} are replayed by another function.", asked=_name_of(replay), there=_name_of(known),
            try_="a kind of your own",
        )  # fmt: skip
    _replays[kind] = replay


def _name_of(replay: Replay) -> str:
    return f"{replay.__module__}.{getattr(replay, '__qualname__', repr(replay))}"


def replay_of(kind: str, package: str) -> Replay:
    """How a kind of step is done again.

    Raises:
        BadFile: nobody registered it; the message names the package that wrote it.
    """
    if kind not in _replays:
        raise BadFile(
            f"The file has a step of kind {kind!r}, which nobody here knows.", there=", ".join(sorted(_replays)),
            try_=f"import {package}, the package that wrote it" if package else "the package that wrote it",
        )  # fmt: skip
    return _replays[kind]


def check_steps(steps: list[Any]) -> None:
    """See that steps read from a file have the parts that steps have, and are no more than anybody makes.

    Raises:
        BadFile: naming the first part that is missing or is of another kind.
    """
    if len(steps) > MOST_STEPS:
        raise BadFile("The file has too many steps.", there=f"{len(steps)} steps", try_=f"at most {MOST_STEPS}")
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
            break  # before it, and on it, numbers may be set; later edits are made again when a model is saved
        if SET_BY_HAND in steps[number - 1]["data"]:
            raise BadFile(f"Step {number} is an edit that is made again, and sets no numbers by hand.")


def _check(value: Any, parts: dict[Any, Any], what: str) -> None:
    if not isinstance(value, dict):
        raise BadFile(f"The file has {_short(value)} for {what}.")
    for name, kind in parts.items():
        if not isinstance(value.get(name, ...), kind):
            there = _short(value.get(name, "nothing"))
            raise BadFile(f"In {what}, {name!r} is missing or of another kind.", there=there)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def fingerprint(model: nn.Module, sites: Iterable[Site]) -> str:
    """What tells this model from others: its activation calls in order, and its parameters' names and shapes."""
    return hashlib.sha256(json.dumps([calls_of(sites), layout(model)]).encode()).hexdigest()


def calls_of(sites: Iterable[Site]) -> list[tuple[str | int, ...]]:
    """The activation calls in order: where they stand in the code, and last what they compute."""
    return [(site.owner, site.method, site.target, site.turn, site.run, site.activation) for site in sites]


def layout(model: nn.Module) -> list[Any]:
    """The names and shapes of the parameters."""
    return [(name, list(value.shape)) for name, value in model.named_parameters()]


def ended(step: Step, model: nn.Module) -> Step:
    """The step, with what it left: whatever is found changed later was changed by others."""
    buffers = frozenset(name for name, _ in model.named_buffers())
    return replace(step, left=layout(model), buffers=buffers, numbers=numbers_of(model))


def forget_where_changed(model: nn.Module) -> None:
    """If others changed the model since its last step, what its steps were made on can be told no more.

    Numbers that they set on layers become a part of that step.
    """
    steps = steps_of(model)
    if steps and (by_hand := set_since(model, steps[-1])):
        steps[-1].data[SET_BY_HAND] = by_hand
    if steps and steps[-1].left != layout(model):
        for step in steps:
            step.fingerprint = None


def asked_of(rule: Rule) -> str:
    """What a rule asks for, however many sites it expects and whatever else it leaves to others."""
    return str(replace(rule, expect=None, optional=False, remaining=False))


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """A plan as plain data: its rules, which of them took effect, the keys of its sites and what is put there."""
    because = {edit.because for edit in plan.edits}
    edits = [
        {
            "site": list(edit.site.key), "turn": edit.site.turn, "was": edit.site.activation,
            "make": edit.make, "params": dict(edit.params), "fade": edit.fade, "start": edit.start,
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
        WrongModel: the model has no such call, or another activation there.
    """
    by_key = {site.key: site for site in sites.places}
    edits = []
    for one in data["edits"]:
        key = tuple(one["site"])
        site = by_key.get(key)
        if site is None or site.activation != one["was"]:
            raise WrongModel(
                f"The saved edits do not fit: {one['was']} at {key[0] or 'the top'}, call {key[3]} of {key[2]}.",
                there=f"{site.activation} there" if site else "no such call",
                try_=nearest(str(key[0]), {one.owner for one in sites}) or "the model the edits were made on",
            )
        fade = tuple(one["fade"]) if isinstance(one["fade"], list) else one["fade"]
        edits.append(Edit(site, one["make"], tuple(sorted(one["params"].items())), fade, 1, one["start"]))
    kept = tuple((site, "not in the saved edits") for site in sites if site not in {edit.site for edit in edits})
    return Plan(sites, (), tuple(edits), kept)
