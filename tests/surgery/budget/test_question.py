"""Question: what may be done to small networks, and what is refused before anything is measured."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from surgery.budget.choice import choose
from surgery.budget.question import Question
from surgery.budget.savings import Savings
from surgery.errors import NothingPicked, UnknownName
from tests.surgery.budget.networks import batches, small_net


def question(menu: Any = ("erase", "affine", "merge", "drop"), cost: str = "sites") -> Question:
    return Question.of(small_net(), batches(labelled=True), menu, cost)


def test_what_may_be_done() -> None:
    asked = question()
    assert Counter(action.what for action in asked.actions) == {"erase": 5, "affine": 2, "drop": 2}
    assert asked.menu == ("keep", "erase", "affine", "merge", "drop") and len(asked.reference) == 18
    assert asked.reference.accuracy is not None
    assert Counter(action.what for action in question(cost="macs").actions)["merge"] == 2


def test_what_is_counted() -> None:
    drops = {str(action): saved for action, saved in question("drop").counted().saved.items()}
    assert drops == {"drop blocks.0": 2, "drop blocks.1": 2}
    elements = question("drop", "relu_count").counted()
    assert elements.total == 4 * 8 * 8 * 5
    assert all(saved > 0 for saved in question("drop", "macs").counted().saved.values())


def test_what_saves_nothing_is_refused() -> None:
    with pytest.raises(NothingPicked, match="Nothing on this menu saves MACs in SmallNet"):
        question("erase", "macs").check_saves(Savings(1.0, {}))
    with pytest.raises(UnknownName, match="'flops' is not a cost"):
        question(cost="flops")


def test_images_known_by_heart_are_warned_of() -> None:
    model = small_net()
    with torch.no_grad():
        known = [(batch, model(batch).argmax(1)) for batch in batches()]
    with pytest.warns(UserWarning, match=r"knows these images by heart \(accuracy 100.0%"):
        choose(model, known, ("drop",), "sites")
