"""Choice: which edits of a network pay, measured on images: what each saves, what each does to the predictions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.budget.front import Cost, Front
from surgery.budget.journal import Journal
from surgery.budget.measurement import Measurements
from surgery.budget.question import Question
from surgery.budget.retiming import Retiming
from surgery.budget.savings import of_times
from surgery.budget.search import candidates_of, reported, retimed, searched
from surgery.cost.action import MENU
from surgery.cost.block_times import batch_of, check_fits, time_blocks
from surgery.cost.conditions import Conditions, checked
from surgery.cost.table import NETWORK, LatencyTable, kept
from surgery.errors import BadFile, BadValue
from surgery.look.site import Sites
from surgery.model import dtype_of, home_of
from surgery.plan.plan import UNEDITABLE
from surgery.predictions.damage import Reference, reference_of
from surgery.progress import Say
from surgery.repair.batches import batches_of, check_repeatable
from surgery.text import number_of


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
    screen: int | None = None,
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

    With `screen`, single edits are measured on so many images only, which says well enough what to try together: a
    choice takes a fraction of the time.

    Choose on images that the network was not trained on: on those that it knows by heart, nothing does damage. What is
    chosen looks better on `batches` than it is; `report_on` are other batches, to measure the points of the front on.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; all of them are kept in memory.
    `example` is as in `find_sites`, two images of the first batch by default. With `path`, a JSON file, measurements
    are kept as they are made, and the same call goes on from there. `progress` is called with lines of text.

    Affine maps are those that need no data, behind norms. With `fit` they are all fitted by least squares to `batches`
    in the unedited network; call `fit_affine` on the edited network, which fits them there.

    The cost is "latency", milliseconds on `example`, "relu_count", elements of activations per image, "sites", calls of
    activations, or "macs", multiply-adds per image. Latencies are those of `time_blocks` in this `runtime` and
    `layout`, or those of a `table` that it returned or saved; what saves less than a thousandth is not considered. The
    points of the front are timed as a whole as well.

    Source: forward divergence as damage, a front without rounding: ours; the menu is that of Kim et al. 2023
    (arXiv 2301.12187), LayerMerge and Veit et al. 2016 together.

    Raises:
        UnknownName: an entry of the menu, a cost or a function that does not exist.
        BadValue: an argument outside its range; or batches that are empty, can be read only once, or fail in the model;
            or a network that does not return scores of classes.
        NothingPicked: nothing on the menu saves anything here.
        BadFile: `path` is the journal of another choice, or the table is one of another network or other conditions.

    >>> front = surgery.choose(model, batches, cost="relu_count", report_on=others)
    >>> plan = front.within(damage=0.05)
    """
    checked(runtime, layout)
    _check_numbers(worst, points, screen)
    if report_on is not None:
        check_repeatable(report_on)
    asked = Question.of(model, batches, menu, cost, swap_to=swap_to, fit=fit, example=example, progress=progress)
    sites, trial, reference = asked.sites, asked.trial, asked.reference
    reported_on = [] if report_on is None else list(batches_of(report_on, model))
    times = None if table is None or cost != "latency" else _given(table, model, sites, runtime, layout)
    about = {"model": sites.model_kind, "images": _digest(reference), "entropy": reference.entropy, "fit": fit}
    journal = Journal(path, about)
    if cost == "latency" and times is None:
        beside = None if path is None else Path(path).with_suffix(".times.json")
        times = time_blocks(
            model, sites.example, asked.menu, runtime=runtime, layout=layout, swap_to=asked.swap_to, path=beside,
            progress=progress,
        )  # fmt: skip
    savings = asked.counted() if times is None else of_times(times, asked.actions)
    asked.check_saves(savings)
    blocks = [str(block) for block in sites.blocks]
    measured = Measurements(trial, reference, asked.batches, journal, "damage", enter_at=blocks, worst=worst)
    few = measured if screen is None else measured.on_first(screen)
    candidates = candidates_of(few, savings, progress)
    few.close()
    found = searched(measured, savings, candidates, worst, points, progress)
    measured.close()
    if times is not None:
        found = retimed(Retiming(model, sites, times.conditions, journal), savings.total, found, progress)
    if reported_on:
        others = reference_of(model, reported_on)
        topic = f"reported on {_digest(others)}"
        found = reported(Measurements(trial, others, reported_on, journal, topic), found, progress)
    conditions = (
        ("menu", ", ".join(asked.menu)), ("cost", cost), ("chosen on", _in_words(reference)),
        *([("swap to", asked.swap_to)] if "swap" in asked.menu else []),
        *([("affine maps", "fitted to the images")] if fit and "affine" in asked.menu else []),
        *([("timed", str(times.conditions))] if times is not None else []),
    )  # fmt: skip
    untimed = [] if times is None else [str(action) for action in asked.actions if times.saved(action) is None]
    left_out = [f"{site}: {reason.removeprefix(UNEDITABLE)}" for site, reason in trial.left_out]
    left_out += [number_of("action", untimed) + ", which the times lack"] if untimed else []
    return Front(sites, cost, savings.total, found, candidates, conditions, tuple(left_out))


def _given(table: LatencyTable | str | Path, model: nn.Module, sites: Sites, runtime: str, layout: str) -> LatencyTable:
    """The given latency table.

    Raises:
        BadFile: it is of another network or of other conditions, or lacks the time of the whole network.
    """
    found = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    home = home_of(model)
    dtype, batch = dtype_of(model) or torch.float32, batch_of(sites.example.on(home))
    check_fits(found, type(model).__name__, Conditions.here(*checked(runtime, layout), dtype, batch, home))
    known = {NETWORK, *map(str, sites.blocks), *map(str, sites), *(site.block for site in sites)}
    strange = [row.place for row in found if row.place not in known]
    if strange or kept(NETWORK) not in found.rows:
        raise BadFile(
            "The table was measured for something else.",
            asked=f"times of {', '.join(strange[:3])}" if strange else "no time of the whole network",
            try_="surgery.time_blocks on this network",
        )  # fmt: skip
    return found


def _check_numbers(worst: float, points: int, screen: int | None) -> None:
    if isinstance(worst, bool) or not isinstance(worst, int | float) or not 0 < worst < math.inf:
        raise BadValue("`worst` is a divergence in nats.", asked=f"worst={worst!r}", try_="above 0, such as 0.5")
    if type(points) is not int or points < 1:
        raise BadValue("`points` is a number of points.", asked=f"points={points!r}", try_="at least 1")
    if screen is not None and (type(screen) is not int or screen < 1):
        raise BadValue("`screen` is a number of images.", asked=f"screen={screen!r}", try_="at least 1, such as 100")


def _digest(reference: Reference) -> str:
    """What identifies network and images: the number of images, and a hash of what is predicted for them."""
    classes = reference.logs.argmax(1).short().numpy().tobytes()
    return f"{len(reference.logs)} images, {hashlib.sha256(classes).hexdigest()[:12]}"


def _in_words(reference: Reference) -> str:
    images = f"{len(reference.logs)} images"
    return images if reference.accuracy is None else f"{images}, accuracy {reference.accuracy:.2%} before"
