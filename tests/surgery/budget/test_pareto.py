"""Pareto: the exact front against all combinations."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.budget.pareto import front, independent
from surgery.cost.action import Action
from tests.surgery.budget.actions import affine, drop, erase, network, total


def by_brute_force(actions: list[Action], saved: dict[Action, float], alone: dict[Action, float], worst: float) -> list:
    """Savings and damages of all compatible sets that no other dominates, from the smallest savings on."""
    useful = [action for action in actions if saved[action] > 0]
    subsets = [set for size in range(len(useful) + 1) for set in combinations(useful, size)]
    fit = [set for set in subsets if not any(a.excludes(b) for a, b in combinations(set, 2))]
    points = {(total(saved, set), total(alone, set)) for set in fit if total(alone, set) <= worst}
    return sorted(
        (s, d) for s, d in points
        if not any((s2 >= s and d2 < d) or (s2 > s and d2 <= d) for s2, d2 in points)
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=10, max_size=10), st.integers(1, 30))
def test_the_front_is_that_of_all_combinations(values: list[tuple[int, int]], worst: int) -> None:
    actions = network(2)
    saved = {action: float(value) for action, (value, _) in zip(actions, values, strict=True)}
    alone = {action: float(value) for action, (_, value) in zip(actions, values, strict=True)}
    found = front(actions, saved, alone, worst)
    assert [(state.saved, state.damage) for state in found] == by_brute_force(actions, saved, alone, worst)
    for state in found:
        assert (total(saved, state.actions), total(alone, state.actions)) == (state.saved, state.damage)
        assert not any(a.excludes(b) for a, b in combinations(state.actions, 2))


def test_a_large_network_takes_no_time() -> None:
    actions = network(27)
    saved = {action: 1 + math.sin(number) for number, action in enumerate(actions)}
    alone = {action: 0.01 * (1 + math.cos(7 * number)) for number, action in enumerate(actions)}
    found = front(actions, saved, alone, 0.5)
    assert found[0].actions == () and all(a.saved < b.saved and a.damage < b.damage for a, b in pairwise(found))


def test_actions_that_exclude_each_other_are_one_group() -> None:
    a, b, c, d = erase("a.x", "a"), affine("a.x", "a"), erase("a.y", "a"), drop("a", "a.x", "a.y")
    assert independent([a, c, b, d]) == [(a, c, b, d)] or {frozenset(g) for g in independent([a, c, b, d])} == {
        frozenset((a, b, c, d))
    }
    assert {frozenset(group) for group in independent([a, c, b])} == {frozenset((a, b)), frozenset((c,))}


def test_without_savings_there_is_nothing_but_the_network() -> None:
    action = erase("a")
    assert [state.actions for state in front([action], {action: 0.0}, {action: 0.0}, 1.0)] == [()]
    assert [state.actions for state in front([], {}, {}, 1.0)] == [()]


@pytest.mark.parametrize("worst", [0.05, 0.15])
def test_damage_ends_at_the_worst(worst: float) -> None:
    actions = [erase(name) for name in "abc"]
    found = front(actions, dict.fromkeys(actions, 1.0), dict.fromkeys(actions, 0.1), worst)
    assert [len(state.actions) for state in found] == list(range(int(worst / 0.1) + 1))
