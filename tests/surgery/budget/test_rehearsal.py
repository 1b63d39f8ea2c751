"""Rehearsal: a choice is counted and timed, and is as it was."""

from __future__ import annotations

import pytest

from surgery.budget.choice import choose
from surgery.budget.rehearsal import Rehearsal, rehearse
from surgery.errors import BadValue, NothingPicked
from tests.surgery.budget.networks import batches, small_net


def test_what_is_rehearsed_is_what_is_measured() -> None:
    found = rehearse(small_net(), batches(), ("affine", "drop"), "relu_count", screen=8)
    front = choose(small_net(), batches(), ("affine", "drop"), "relu_count", worst=5.0)
    assert sum(found.actions.values()) == len(front.candidates) == 4
    assert found.actions == {"affine": 2, "drop": 2} and (found.images, found.together) == (8, 18)
    assert found.action_s > 0 and found.seconds == 4 * found.action_s == found.facts()["seconds"]


def test_blocks_are_timed_unless_they_were() -> None:
    assert rehearse(small_net(), batches(), ("drop", "erase")).blocks == 2
    assert rehearse(small_net(), batches(), ("drop", "erase"), timed=True).blocks == 0


def test_it_prints_what_is_measured_and_how_long() -> None:
    text = str(Rehearsal("Net", {"drop": 2, "erase": 3}, 2, 100, 500, 12.0))
    assert "drop    2" in text and "erase   3" in text
    assert text.endswith(
        "Net: 2 blocks are timed first; each alone on 100 images, about 60 s in all; then together on 500; nothing was"
        " written"
    )


def test_what_a_choice_refuses_is_refused() -> None:
    with pytest.raises(NothingPicked):
        rehearse(small_net(), batches(), ("erase",), "macs")
    with pytest.raises(BadValue):
        rehearse(small_net(), [], ("erase",), "sites")
