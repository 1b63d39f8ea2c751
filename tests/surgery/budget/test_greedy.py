"""Greedy: nested sets, by damage per savings, measured again before anything is taken."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.budget.greedy import Actions, greedy, with_action
from surgery.cost.action import Action
from tests.surgery.budget.actions import drop, erase, network, total


def covered(actions: Actions) -> set[str]:
    return {site for action in actions for site in (*action.sites, action.place)}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=15, max_size=15))
def test_every_step_keeps_what_was_changed_and_saves_more(values: list[tuple[int, int]]) -> None:
    actions = network(3)
    saved = {action: float(value) for action, (value, _) in zip(actions, values, strict=True)}
    alone = {action: float(value) for action, (_, value) in zip(actions, values, strict=True)}
    steps = list(greedy(saved, alone, lambda chosen: total(alone, chosen), worst=1e9))
    for before, after in pairwise([(), *steps]):
        assert covered(before) <= covered(after) and total(saved, before) < total(saved, after)
        assert not any(a.excludes(b) for a in after for b in after if a != b)


def test_the_best_ratio_is_taken_first() -> None:
    cheap, dear, useless = erase("a"), erase("b"), erase("c")
    saved, alone = {cheap: 2.0, dear: 1.0, useless: 0.0}, {cheap: 0.1, dear: 0.1, useless: 0.0}
    assert list(greedy(saved, alone, lambda chosen: total(alone, chosen), 1.0)) == [(cheap,), (cheap, dear)]


def test_what_got_worse_is_left_for_what_did_not() -> None:
    first, bad, good = erase("a"), erase("b"), erase("c")
    alone = {first: 0.1, bad: 0.2, good: 0.3}
    measured: list[Actions] = []

    def measure(chosen: Actions) -> float:
        measured.append(chosen)
        return total(alone, chosen) + (1.0 if {first, bad} <= set(chosen) else 0.0)

    steps = list(greedy(dict.fromkeys(alone, 1.0), alone, measure, 10.0))
    assert steps == [(first,), (first, good), (first, good, bad)]
    assert measured[1] == (first, bad)  # it looked best, and was measured again


def test_a_dropped_block_takes_the_place_of_what_was_done_in_it() -> None:
    inside, whole = erase("a.x", "a"), drop("a", "a.x", "a.y")
    assert with_action((erase("b"), inside), whole) == (erase("b"), whole)
    saved, alone = {inside: 1.0, whole: 3.0}, {inside: 0.01, whole: 0.5}
    assert list(greedy(saved, alone, lambda chosen: total(alone, chosen), 1.0)) == [(inside,), (whole,)]


def test_it_ends_at_the_worst_damage() -> None:
    actions = [erase(name) for name in "abc"]
    alone: dict[Action, float] = {action: 0.2 for action in actions}
    assert len(list(greedy(dict.fromkeys(actions, 1.0), alone, lambda chosen: total(alone, chosen), 0.5))) == 2
