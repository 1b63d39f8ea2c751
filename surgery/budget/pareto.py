"""Pareto: the exact front of all sets of actions, where what they save and the damage they do add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from surgery.cost.action import Action

Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Actions that can be done together, what they save, and the damage that they do."""

    actions: Actions
    saved: float
    damage: float


NOTHING = State((), 0.0, 0.0)


def front(
    actions: Sequence[Action], saved: Mapping[Action, float], alone: Mapping[Action, float], worst: float
) -> list[State]:
    """All sets of actions of which no other saves as much at less damage, or more at as much, up to `worst`.

    From nothing to the largest savings. Exact: dynamic programming over what does not exclude each other, in which
    all states stay that none dominates, without rounding.

    Source: the program of Kim et al. 2023, arXiv 2301.12187, section 3, for a single budget of rounded times.
    """
    useful = [action for action in actions if saved[action] > 0]
    worth = {action: State((action,), saved[action], alone[action]) for action in useful}
    return _combined([_within(group, worth, worst) for group in independent(useful)], worst)


def independent(actions: Sequence[Action]) -> list[Actions]:
    """The actions in groups, so that no action of one group excludes one of another."""
    groups: list[list[Action]] = []
    for action in actions:
        near = [group for group in groups if any(action.excludes(other) for other in group)]
        groups = [group for group in groups if group not in near] + [[*chain(*near), action]]
    return [tuple(group) for group in groups]


def _within(group: Actions, worth: Mapping[Action, State], worst: float) -> list[State]:
    """The front of the sets of actions in one group."""
    whole = [action for action in group if action.what in ("drop", "merge")]
    single = [action for action in group if action not in whole]
    found: list[State] = []
    for chosen in _compatible(whole):
        left = [action for action in single if not any(action.excludes(other) for other in chosen)]
        start = [_together([worth[action] for action in chosen])]
        alternatives = [[NOTHING, *(worth[action] for action in place)] for place in independent(left)]
        found += _combined([start, *alternatives], worst)
    return _best(found, worst)


def _compatible(actions: Sequence[Action]) -> Iterable[Actions]:
    """All subsets of which no two exclude each other."""
    sizes = range(len(actions) + 1)
    subsets = chain.from_iterable(combinations(actions, size) for size in sizes)
    return (subset for subset in subsets if not any(a.excludes(b) for a, b in combinations(subset, 2)))


def _together(states: Sequence[State]) -> State:
    actions = tuple(chain.from_iterable(state.actions for state in states))
    return State(actions, sum(state.saved for state in states), sum(state.damage for state in states))


def _best(states: Sequence[State], worst: float) -> list[State]:
    """Those that none of the others dominates."""
    if not states:
        return []
    saved, damage = (np.array([getattr(state, name) for state in states]) for name in ("saved", "damage"))
    return [states[place] for place in _undominated(saved, damage, worst)]


def _combined(stages: Sequence[Sequence[State]], worst: float) -> list[State]:
    """The front of all choices of one state per stage."""
    saved, damage = np.zeros(1), np.zeros(1)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []  # per stage: which state before, which option
    for options in stages:
        more, worse = (np.array([getattr(state, name) for state in options]) for name in ("saved", "damage"))
        saved, damage = (saved[:, None] + more).ravel(), (damage[:, None] + worse).ravel()
        kept = _undominated(saved, damage, worst)
        chosen.append((kept // max(len(options), 1), kept % max(len(options), 1)))
        saved, damage = saved[kept], damage[kept]
    places, picks = np.arange(len(saved)), list[list[Actions]]()
    for options, (before, option) in zip(reversed(stages), reversed(chosen), strict=True):
        picks.append([options[number].actions for number in option[places]])
        places = before[places]
    sets = [tuple(chain.from_iterable(reversed(parts))) for parts in zip(*picks, strict=True)] if picks else [()]
    return [State(actions, float(s), float(d)) for actions, s, d in zip(sets, saved, damage, strict=True)]


def _undominated(saved: np.ndarray, damage: np.ndarray, worst: float) -> np.ndarray:
    """The places of those that are not dominated, from the smallest to the largest savings."""
    order = np.lexsort((damage, -saved))  # largest savings first
    least = np.minimum.accumulate(np.concatenate([[np.inf], damage[order]]))[:-1]
    kept = order[(damage[order] < least) & (damage[order] <= worst)]
    return kept[::-1]
