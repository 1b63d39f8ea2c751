"""Greedy: actions one after the other, always the one that does the least damage for what it saves, measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from surgery.cost.action import Action

Actions = tuple[Action, ...]
Measure = Callable[[Actions], float]

TRIES = 4  # actions that are measured again at most before one of them is taken
_LEAST = 1e-9  # damages below this are none


def greedy(
    saved: Mapping[Action, float], alone: Mapping[Action, float], measure: Measure, worst: float
) -> Iterator[Actions]:
    """Sets of actions, each with one more than the one before, until none saves anything or the damage exceeds `worst`.

    `saved` is what each action saves and `alone` the damage of each alone. In every step the most promising action is
    measured together with those taken before, again and again, until what was just measured stays the best: damages
    rarely fall when others are added, so that those not measured again are worse. An action that covers others, as
    dropping a block covers what is done inside it, takes their place.
    """
    promised = dict(alone)  # how much more damage each does, as last measured
    taken, now = Actions(), 0.0
    while gains := dict(_gains(saved, taken)):
        fresh: dict[Action, float] = {}

        def ratio(action: Action) -> float:
            return max(promised[action], _LEAST) / gains[action]  # used at once

        while (best := min(gains, key=ratio)) not in fresh:
            fresh[best] = measure(with_action(taken, best))
            promised[best] = fresh[best] - now
            if len(fresh) == TRIES:
                best = min(fresh, key=ratio)
                break
        if fresh[best] > worst:
            return
        taken, now = with_action(taken, best), fresh[best]
        yield taken


def with_action(taken: Sequence[Action], action: Action) -> Actions:
    """These actions and another one, without those that it covers."""
    return (*(other for other in taken if not action.covers(other)), action)


def _gains(saved: Mapping[Action, float], taken: Actions) -> Iterator[tuple[Action, float]]:
    """The actions that can be added, with what each saves beyond the actions whose place it takes."""
    for action, gain in saved.items():
        others = [other for other in taken if action.excludes(other)]
        if action not in taken and all(action.covers(other) for other in others):
            more = gain - sum(saved[other] for other in others)
            if more > 0:
                yield action, more
