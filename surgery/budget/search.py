"""Search: which actions together are best, measured step by step, and what the points found are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgery.budget.front import Candidate, Point, merged
from surgery.budget.greedy import greedy
from surgery.budget.measurement import Measurements
from surgery.budget.pareto import State, front
from surgery.budget.retiming import Retiming
from surgery.budget.savings import Savings
from surgery.cost.action import Action
from surgery.predictions.damage import NO_DAMAGE, Damage
from surgery.progress import Progress, Say


def candidates_of(measured: Measurements, savings: Savings, say: Say | None) -> tuple[Candidate, ...]:
    """Every action that saves something, measured alone, in order of execution."""
    bar = Progress(say, "measured alone", len(savings.saved))
    found = []
    for action, saved in savings.saved.items():
        known = measured.known([action]) is not None
        damage = measured.damage([action])
        found.append(Candidate(action, damage, saved))
        bar.step(f"{action}, KL {damage.kl:.4g}", known=known)
    return tuple(found)


def searched(
    measured: Measurements,
    savings: Savings,
    candidates: Sequence[Candidate],
    worst: float,
    points: int,
    say: Say | None,
) -> tuple[Point, ...]:
    """The unedited network, the points of the greedy search, and some of the exact front."""
    alone = {one.action: one.damage.kl for one in candidates}
    bar = Progress(say, "measured together", None)

    def point(actions: tuple[Action, ...], damage: Damage, by: str) -> Point:
        return Point(actions, savings.left(actions), sum(alone[action] for action in actions), damage, by=by)

    def measure(actions: tuple[Action, ...]) -> float:
        known = measured.known(actions) is not None
        kl = measured.damage(actions).kl
        bar.step(f"{len(actions)} actions, KL {kl:.4g}", known=known)
        return kl

    steps = [point((), NO_DAMAGE, "both")]
    for actions in greedy(savings.saved, alone, measure, worst):
        steps.append(point(actions, measured.damage(actions), "greedy"))
    exact = []
    for state in spaced(front(list(savings.saved), savings.saved, alone, worst), points):
        measure(state.actions)
        damage = measured.damage(state.actions)
        if damage.images == len(measured.reference):  # else it is of no interest
            exact.append(point(state.actions, damage, "exact"))
    return merged(steps, exact)


def spaced(states: Sequence[State], count: int) -> list[State]:
    """At most so many states of a front, evenly spread over what they save; without the one that does nothing."""
    edited = [state for state in states if state.actions]
    if len(edited) <= count:
        return edited
    most = edited[-1].saved
    levels = [most * number / count for number in range(1, count + 1)]
    found = [next(state for state in edited if state.saved >= level * (1 - 1e-12)) for level in levels]
    return list({state.actions: state for state in found}.values())


def retimed(retiming: Retiming, total: float, points: tuple[Point, ...], say: Say | None) -> tuple[Point, ...]:
    """The points, with the measured times of their networks."""
    bar = Progress(say, "timed together", len(points))
    found = []
    for point in points:
        known = retiming.known(point.actions)
        found.append(replace(point, cost=total / retiming.speedup(point.actions)))
        bar.step(f"{point.predicted_cost:.4g} ms predicted, {found[-1].costs:.4g} ms measured", known=known)
    return tuple(found)


def reported(measured: Measurements, points: tuple[Point, ...], say: Say | None) -> tuple[Point, ...]:
    """The points, with their damage on other batches."""
    bar = Progress(say, "reported", len(points))
    found = []
    for point in points:
        known = measured.known(point.actions) is not None
        damage = measured.damage(point.actions)
        found.append(replace(point, reported=damage))
        bar.step(f"{point.damage.kl:.4g} is {damage.kl:.4g} there", known=known)
    measured.close()
    return tuple(found)
