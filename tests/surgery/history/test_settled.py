"""The history after fades and phases have ended."""

from __future__ import annotations

from typing import Any

from surgery.history.history import History, Step
from surgery.history.settled import mark_settled


def step(*edits: dict[str, Any]) -> Step:
    return Step("surgery", {"edits": list(edits)}, "fingerprint")


def edit(site: str, make: str, fade: bool = False, **params: Any) -> dict[str, Any]:
    return {"site": [site], "make": make, "fade": fade, "params": params}


def test_functions_have_their_final_form() -> None:
    history = History([step(edit("a", "pwlu", warmup=0.5, intervals=8), edit("b", "prelu", init=0.1))])
    mark_settled(history)
    assert [item["params"] for item in history.steps[0].data["edits"]] == [{"intervals": 8}, {"init": 0.1}]
    assert history.steps[0].fingerprint == "fingerprint"


def test_a_settled_fade_leaves_later_steps_without_a_fingerprint() -> None:
    history = History([step(edit("a", "identity", fade=True)), step(edit("b", "silu"))])
    mark_settled(history)
    assert not history.steps[0].data["edits"][0]["fade"]
    assert [step.fingerprint for step in history.steps] == ["fingerprint", None]


def test_a_fade_that_a_later_step_replaced_stays_as_it_was_asked_for() -> None:
    history = History([step(edit("a", "identity", fade=True)), step(edit("a", "silu"))])
    mark_settled(history)
    assert history.steps[0].data["edits"][0]["fade"] and history.steps[1].fingerprint == "fingerprint"
