"""Choice: which edits of a network pay, measured on images: what each saves, what each does to the predictions."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from surgery.budget.damage import NO_DAMAGE, Damage, Reference
from surgery.budget.front import UNITS, Candidate, Cost, Front, Point, merged
from surgery.budget.greedy import greedy
from surgery.budget.journal import Journal
from surgery.budget.measurement import Measurements, reference_of
from surgery.budget.pareto import State, front
from surgery.budget.retiming import Retiming
from surgery.budget.savings import Savings, of_macs, of_relus, of_sites, of_times
from surgery.budget.trial import Trial
from surgery.cost.action import MENU, Action, actions_at, checked_function, checked_menu
from surgery.cost.block_times import batch_of, check_fits, time_blocks
from surgery.cost.conditions import Conditions, checked
from surgery.cost.editable import editable_groups
from surgery.cost.paddings import paddings_of
from surgery.cost.table import LatencyTable
from surgery.errors import BadValue, NothingPicked, UnknownName, nearest
from surgery.look.finder import find_sites
from surgery.look.site import Sites
from surgery.model import check_plain, dtype_of, home_of
from surgery.progress import Progress, Say
from surgery.repair.batches import Batch, batches_of, check_repeatable
from surgery.schedule.progress import check_settled

BY_HEART_ACCURACY, BY_HEART_LOSS = 0.995, 0.05  # of images that a network has learnt by heart


def choose(
    model: nn.Module,
    batches: Iterable[Any],
    menu: Iterable[str] = MENU,
    cost: Cost = "latency",
    *,
    runtime: str = "eager",
    table: LatencyTable | str | Path | None = None,
    report_on: Iterable[Any] | None = None,
    layout: str = "channels_last",
    swap_to: str = "relu",
    fit: bool = False,
    worst: float = 0.5,
    points: int = 16,
    example: Any = None,
    path: str | Path | None = None,
    progress: Say | None = None,
) -> Front:
    """Measure which edits of a network pay, and return the front: what can be saved for how much damage.

    The menu says what may be done: "erase" a nonlinearity, put an "affine" map there, "swap" it for a cheaper function
    (`swap_to`), "drop" a residual block whole, or "merge" what is in a block: make it linear by affine maps and move
    its padding, so that `surgery.merge` makes one layer of it after training; "keep" is always on it. The damage of an
    edit is the Kullback-Leibler divergence of the predictions after it from those before it, on `batches`. Every edit
    is measured alone; then two searches combine them: a greedy one, which measures again after every step, so that its
    points are nested, and an exact one for damages that add up, of which `points` are measured. Neither goes on where
    the damage exceeds `worst`, and what clearly exceeds it on the first images is not measured on the others: have them
    in random order. `front.within` has the plan of each budget; the model itself stays unchanged.

    Choose on images that the network was not trained on: on those that it knows by heart, nothing does damage. What is
    chosen looks better on `batches` than it is; `report_on` are other batches, to measure the points of the front on.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; all of them are kept in memory.
    `example` is as in `find_sites`, two images of the first batch by default. With `path`, a JSON file, measurements
    are kept as they are made, and the same call goes on from there. `progress` is called with lines of text.

    Affine maps are those that need no data, behind norms. With `fit` they are all fitted by least squares to `batches`
    in the unedited network; call `fit_affine` on the edited network, which fits them there.

    The cost is "latency", milliseconds on `example`, "relu_count", elements of activations per image, "sites", calls of
    activations, or "macs", multiply-adds per image. Latencies are those of `time_blocks` in this `runtime` and
    `layout`, or those of a `table` that it returned or saved; the points of the front are timed as a whole as well.

    Source: forward divergence as damage, a front without rounding: ours; the menu is that of Kim et al. 2023
    (arXiv 2301.12187), LayerMerge and Veit et al. 2016 together.

    Raises:
        UnknownName: an entry of the menu, a cost or a function that does not exist.
        BadValue: an argument outside its range; or batches that are empty, can be read only once, or fail in the model;
            or a network that does not return scores of classes.
        NothingPicked: nothing on the menu saves anything here.
        BadFile: `path` is the journal of another choice.

    >>> front = surgery.choose(model, batches, cost="relu_count", report_on=others)
    >>> plan = front.within(damage=0.05)
    """
    wanted = checked_menu(menu)
    kind = _checked_cost(cost)
    checked(runtime, layout)
    swap_to = checked_function(swap_to)
    _check_numbers(worst, points)
    check_plain(model)
    for given in (batches, *(() if report_on is None else (report_on,))):
        check_repeatable(given)
    chosen_on = list(batches_of(batches, model))
    reported_on = [] if report_on is None else list(batches_of(report_on, model))
    sites = find_sites(model, chosen_on[0].images[:2] if example is None else example)
    check_settled(sites)
    merges = "merge" in wanted and kind in ("latency", "macs")  # of calls, affine maps save as many
    paddings = paddings_of(model, sites, editable_groups(model, sites)) if merges else {}
    trial = Trial(model, sites, swap_to, paddings)
    actions = actions_at(trial.groups, sites, wanted, swap_to, fitted=fit, mergeable=paddings)
    times = None
    if kind == "latency":
        times = _table(model, sites, wanted, swap_to, table, runtime, layout, path, progress)
    savings = _counted(kind, model, sites, actions) if times is None else of_times(times, actions)
    if not savings.saved:
        raise NothingPicked(
            f"Nothing on this menu saves {UNITS[kind]} in {type(model).__name__}.",
            asked=f"menu={wanted}, cost={kind!r}", try_=f"other entries: {', '.join(MENU)}",
        )  # fmt: skip
    if fit:
        trial.fit([batch.images for batch in chosen_on])
    reference = reference_of(model, chosen_on)
    _warn_of_known_images(reference)
    about = {"model": sites.model_kind, "images": _digest(reference), "entropy": reference.entropy, "fit": fit}
    journal = Journal(path, about)
    blocks = [str(block) for block in sites.blocks]
    measured = Measurements(trial, reference, chosen_on, journal, "damage", enter_at=blocks, worst=worst)
    candidates = _candidates(measured, savings, progress)
    found = _searched(measured, savings, candidates, worst, points, progress)
    measured.close()
    if times is not None:
        found = _retimed(Retiming(model, sites, times.conditions, journal), savings.total, found, progress)
    if reported_on:
        found = _reported(model, trial, reported_on, found, journal, progress)
    conditions = (
        ("menu", ", ".join(wanted)), ("cost", kind), ("chosen on", _in_words(reference)),
        *([("swap to", swap_to)] if "swap" in wanted else []),
        *([("affine maps", "fitted to the images")] if fit and "affine" in wanted else []),
        *([("timed", str(times.conditions))] if times is not None else []),
    )  # fmt: skip
    left_out = tuple(f"{site}: {reason.removeprefix('cannot be edited: ')}" for site, reason in trial.left_out)
    return Front(sites, kind, savings.total, found, candidates, conditions, left_out)


def _counted(kind: Cost, model: nn.Module, sites: Sites, actions: Sequence[Action]) -> Savings:
    if kind == "macs":
        return of_macs(model, sites, actions)
    return of_relus(sites, actions) if kind == "relu_count" else of_sites(sites, actions)


def _table(
    model: nn.Module, sites: Sites, menu: tuple[str, ...], swap_to: str, given: LatencyTable | str | Path | None,
    runtime: str, layout: str, path: str | Path | None, say: Say | None,
) -> LatencyTable:  # fmt: skip
    """The given latency table, if it is of this network and these conditions; else a new one, kept beside `path`."""
    if given is None:
        beside = None if path is None else Path(path).with_suffix(".times.json")
        return time_blocks(model, sites.example, menu, runtime=runtime, layout=layout, swap_to=swap_to, path=beside,
                           progress=say)  # fmt: skip
    table = given if isinstance(given, LatencyTable) else LatencyTable.load(given)
    home = home_of(model)
    here = Conditions.here(
        *checked(runtime, layout), dtype_of(model) or torch.float32, batch_of(sites.example.on(home)), home
    )
    check_fits(table, type(model).__name__, here)
    return table


def _candidates(measured: Measurements, savings: Savings, say: Say | None) -> tuple[Candidate, ...]:
    """Every action that saves something, measured alone, in order of execution."""
    bar = Progress(say, "measured alone", len(savings.saved))
    found = []
    for action, saved in savings.saved.items():
        known = measured.known([action]) is not None
        damage = measured.damage([action])
        found.append(Candidate(action, damage, saved))
        bar.step(f"{action}, KL {damage.kl:.4g}", known=known)
    return tuple(found)


def _searched(
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


def _retimed(retiming: Retiming, total: float, points: tuple[Point, ...], say: Say | None) -> tuple[Point, ...]:
    """The points, with the measured times of their networks."""
    bar = Progress(say, "timed together", len(points))
    found = []
    for point in points:
        known = retiming.known(point.actions)
        found.append(replace(point, cost=total / retiming.speedup(point.actions)))
        bar.step(f"{total / point.predicted_cost:.2f}x predicted, {total / found[-1].costs:.2f}x measured", known=known)
    return tuple(found)


def _reported(
    model: nn.Module,
    trial: Trial,
    batches: Sequence[Batch],
    points: tuple[Point, ...],
    journal: Journal,
    say: Say | None,
) -> tuple[Point, ...]:
    """The points, with their damage on other batches."""
    reference = reference_of(model, batches)
    measured = Measurements(trial, reference, batches, journal, f"reported on {_digest(reference)}")
    bar = Progress(say, "reported", len(points))
    found = []
    for point in points:
        known = measured.known(point.actions) is not None
        damage = measured.damage(point.actions)
        found.append(replace(point, reported=damage))
        bar.step(f"{point.damage.kl:.4g} is {damage.kl:.4g} there", known=known)
    measured.close()
    return tuple(found)


def _checked_cost(cost: str) -> Cost:
    known = get_args(Cost)
    if cost not in known:
        raise UnknownName(f"{cost!r} is not a cost.", there=", ".join(known), try_=nearest(str(cost), known))
    return cost  # type: ignore[return-value]


def _check_numbers(worst: float, points: int) -> None:
    if isinstance(worst, bool) or not isinstance(worst, int | float) or not 0 < worst < math.inf:
        raise BadValue("`worst` is a divergence in nats.", asked=f"worst={worst!r}", try_="above 0, such as 0.5")
    if type(points) is not int or points < 1:
        raise BadValue("`points` is a number of points.", asked=f"points={points!r}", try_="at least 1")


def _warn_of_known_images(reference: Reference) -> None:
    accuracy, loss = reference.accuracy, reference.loss
    if accuracy is not None and loss is not None and (accuracy >= BY_HEART_ACCURACY or loss < BY_HEART_LOSS):
        warnings.warn(
            f"The network knows these images by heart (accuracy {accuracy:.1%}, loss {loss:.3f}): no edit seems to do"
            " damage on them. Choose on images that it was not trained on.", stacklevel=3,
        )  # fmt: skip


def _digest(reference: Reference) -> str:
    """What identifies network and images: the number of images, and a hash of what is predicted for them."""
    classes = reference.logs.argmax(1).short().numpy().tobytes()
    return f"{len(reference.logs)} images, {hashlib.sha256(classes).hexdigest()[:12]}"


def _in_words(reference: Reference) -> str:
    images = f"{len(reference.logs)} images"
    return images if reference.accuracy is None else f"{images}, accuracy {reference.accuracy:.2%} before"
