"""Rehearsal: what a choice would measure and how long that takes, from a few timed measurements."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from surgery.budget.journal import Journal
from surgery.budget.measurement import Measurements, first_images, images_in
from surgery.budget.question import Question
from surgery.cost.action import MENU, Action
from surgery.cost.block_times import in_a_block
from surgery.progress import in_words
from surgery.text import table

_TIMED = 4  # actions, spread evenly over the network


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a choice would measure; prints as a table.

    `actions` are how many there are of each kind, `blocks` are timed first if the cost is a latency. Every action is
    measured alone on `images` images, `action_s` seconds each; combinations are measured on all `together` images.
    """

    model: str
    actions: Mapping[str, int]
    blocks: int
    images: int
    together: int
    action_s: float

    @property
    def seconds(self) -> float:
        """The estimated time in which every action is measured alone."""
        return self.action_s * sum(self.actions.values())

    def facts(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "seconds": self.seconds}

    def __str__(self) -> str:
        rows = [(what, str(count)) for what, count in self.actions.items()]
        timed = f"{self.blocks} blocks are timed first; " if self.blocks else ""
        alone = f"each alone on {self.images} images, about {in_words(self.seconds)} in all"
        last = f"{self.model}: {timed}{alone}; then together on {self.together}; nothing was written"
        return "\n".join([*table(("action", "candidates"), rows), last])


def rehearse(
    model: nn.Module, batches: Iterable[Any], menu: Iterable[str] = MENU, cost: str = "latency", *,
    timed: bool = False, swap_to: str = "relu", fit: bool = False, screen: int | None = None, example: Any = None,
) -> Rehearsal:  # fmt: skip
    """Find everything that `choose` would measure, and measure a few actions; the arguments are those of `choose`.

    `timed` says that the blocks are timed already, in a table. How long timing and measuring combinations take depends
    on what is found: neither is estimated.

    Raises:
        SurgeryError: the choice would fail.
    """
    asked = Question.of(model, batches, menu, cost, swap_to=swap_to, fit=fit, example=example)
    actions: Sequence[Action] = asked.actions
    blocks = set[str]()
    if cost == "latency" and not timed:
        blocks = {str(action.block) for action in actions if in_a_block(action, model)}
    if cost != "latency":
        savings = asked.counted()
        asked.check_saves(savings)
        actions = list(savings.saved)
    few = asked.batches if screen is None else first_images(asked.batches, screen)
    count = images_in(few)
    took = _seconds_of_one(asked, few, actions)
    kinds = Counter[str](action.what for action in actions)
    return Rehearsal(type(model).__name__, dict(kinds), len(blocks), count, images_in(asked.batches), took)


def _seconds_of_one(asked: Question, batches: Sequence[Any], actions: Sequence[Action]) -> float:
    """The mean time of measuring one action alone, from some between the first and the last block."""
    reference = asked.reference.first(images_in(batches))
    places = [str(block) for block in asked.sites.blocks]
    measured = Measurements(asked.trial, reference, batches, Journal(None, {}), "rehearsal", enter_at=places)
    step = max(len(actions) // _TIMED, 1)
    some = actions[step // 2 :: step]
    began = time.perf_counter()
    for action in some:
        measured.damage([action])
    took = time.perf_counter() - began
    measured.close()
    return took / len(some)
