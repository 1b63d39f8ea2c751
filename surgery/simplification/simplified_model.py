"""Simplified model: a copy in which each learned function is the cheapest one within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from surgery.activations import NPWLU, PWLU, FReLU, GSmeLU, SmeLU, Swish
from surgery.edit.strategy import children_of, decide
from surgery.errors import BadValue, NothingPicked
from surgery.isolation.meta_copy import copied
from surgery.look.finder import find_sites
from surgery.look.layout import Layout
from surgery.look.site import Site, Sites
from surgery.model import M, check_plain, dtype_of
from surgery.plan.plan import inventory, make_plan
from surgery.plan.report import Report
from surgery.plan.rules import Rule, swap
from surgery.repair.batches import batches_of, check_repeatable
from surgery.schedule.progress import check_settled
from surgery.simplification.calibration import Difference, differences, points_of
from surgery.simplification.candidates import Candidate, candidates, in_words
from surgery.simplification.operators import operators_of
from surgery.simplification.points import Points
from surgery.simplification.report import Simplification, Simplified
from surgery.transforms import apply_plan

_LEARNED = (PWLU, NPWLU, FReLU, nn.PReLU, Swish, SmeLU, GSmeLU)
_NAMES = ("pwlu", "npwlu", "frelu", "prelu", "swish", "smelu", "gsmelu", "rescu")


@dataclass(frozen=True, eq=False)
class _Learned:
    """A learned function, all its calls, and why it cannot be simplified ("" if it can)."""

    module: nn.Module
    calls: tuple[Site, ...]
    reason: str = ""

    @property
    def name(self) -> str:
        return self.calls[0].activation

    @property
    def axis(self) -> int:
        return Layout.of(self.calls).axis


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What a learned function becomes, and how far that is from it."""

    candidate: Candidate
    difference: Difference


def simplify(
    model: M, batches: Iterable[Any], tolerance: float = 1e-3, example: Any = None
) -> tuple[M, Simplification]:
    """Swap each learned function of a trained model, on a copy, for the cheapest one that computes nearly the same.

    A PWLU, NPWLU, FReLU, PReLU, Swish, SmeLU or GSmeLU becomes the function of the catalogue with the fewest operators,
    or the PWLU with the fewest intervals, that stays within the tolerance: in every channel, the root mean square of
    the difference over the standard deviation of the output is at most `tolerance`, on what the function receives in
    the given model in eval mode. Functions with parameters are refitted by least squares. A channel that is almost
    constant counts as if its deviation were a thousandth of the root mean square of the whole output. Calls for which
    nothing cheaper is near enough are left alone.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; they are iterated at least three
    times. `example` is as in `find_sites`, two images of the first batch by default. The copy is edited like any other:
    `undo`, `save` and `load` work, and it can be trained on. Errors add up over a network: compare its outputs.

    Returns:
        The copy, and a report with one row per call: what it was, what it became, its error, its operators before and
        after. Without anything to simplify the copy has no new edit.

    Raises:
        BadValue: the tolerance is not above 0; the batches can be read only once, contain no images or fail in the
            model; an input is not finite; or the model still fades.
        NothingPicked: the model has no learned functions.

    Source: ours; least squares on what a network computes.

    >>> simplified, report = surgery.simplify(model, batches, tolerance=1e-2)
    """
    check_plain(model)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf:
        raise BadValue(
            "`tolerance` is a relative error.", asked=f"tolerance={tolerance!r}", try_="a number above 0, such as 1e-3"
        )
    check_repeatable(batches)
    first = next(iter(batches_of(batches, model))).images
    simplified, observed = copied(model), copied(model)
    sites = find_sites(simplified, first[:2] if example is None else example)
    check_settled(sites)
    learned = _learned(observed, sites)
    with torch.no_grad():
        axes = {function.module: function.axis for function in learned if not function.reason}
        points = points_of(observed, axes, batches)
        learned = [_with_reason(function, points) for function in learned]
        chosen = _chosen(observed, learned, points, batches, tolerance)
    report = _carried_out(simplified, sites, learned, chosen) if chosen else None
    refused = _refused(report) if report is not None else {}
    rows = {
        site: _row(function, site, chosen.get(function), refused.get(site, ""), tolerance)
        for function in learned for site in function.calls
    }  # fmt: skip
    return simplified, Simplification(tuple(rows[site] for site in sites if site in rows), float(tolerance), report)


def _learned(model: nn.Module, sites: Sites) -> list[_Learned]:
    """The learned functions of a model, in order of their first call.

    Raises:
        NothingPicked: there are none.
    """
    calls: dict[nn.Module | Site, list[Site]] = {}
    for site in sites:
        if site.activation in _NAMES:
            calls.setdefault(site if site.module is None else model.get_submodule(site.module), []).append(site)
    if not calls:
        raise NothingPicked(
            f"{type(model).__name__} has no learned functions.", there=inventory(sites), try_="surgery.swap('pwlu')"
        )
    return [
        _Learned(nn.Identity() if isinstance(key, Site) else key, tuple(own), _why_not(key, own))
        for key, own in calls.items()
    ]


def _why_not(function: nn.Module | Site, calls: list[Site]) -> str:
    """Why a function cannot be simplified; "" if it can."""
    if not isinstance(function, _LEARNED):
        return "it is not called as a module of its own"
    if getattr(function, "gradual", False):
        return "it still changes with the progress of the training: settle first"
    if not any("eval" in site.modes for site in calls):
        return "it is not called in eval mode"
    channels = Layout.of(calls).channels
    if channels is None:
        return "its number of channels varies"
    if {param.shape[-1] for param in function.parameters()} not in ({1}, {channels}):
        return "its parameters are not per channel of what it is called on"
    return ""


def _with_reason(learned: _Learned, points: Mapping[nn.Module, Points]) -> _Learned:
    """The same, but left alone if nothing entered it."""
    unreached = not learned.reason and learned.module not in points
    return replace(learned, reason="it received no input on these batches") if unreached else learned


def _chosen(
    model: nn.Module,
    learned: list[_Learned],
    points: Mapping[nn.Module, Points],
    batches: Iterable[Any],
    tolerance: float,
) -> dict[_Learned, _Chosen]:
    """For each function the first candidate within the tolerance, on a sample of its inputs and then on all of them."""
    reached = {function.module: function for function in learned if function.module in points}
    axes = {module: function.axis for module, function in reached.items()}
    dtype = dtype_of(model) or torch.float32
    near = {
        module: _near(seen, candidates(seen, reached[module].name, module, tolerance, dtype), tolerance)
        for module, seen in points.items()
    }
    chosen: dict[_Learned, _Chosen] = {}
    while near:
        tried = {module: first for module, left in near.items() if (first := next(left, None)) is not None}
        others = {module: candidate.module for module, candidate in tried.items()}
        apart = differences(model, others, axes, batches) if tried else {}
        within = {module for module, difference in apart.items() if difference.error <= tolerance}
        chosen |= {reached[module]: _Chosen(tried[module], apart[module]) for module in within}
        near = {module: near[module] for module in tried if module not in within}
    return chosen


def _near(points: Points, fitted: Iterator[Candidate], tolerance: float) -> Iterator[Candidate]:
    """Those within the tolerance on the sample."""
    return (candidate for candidate in fitted if points.error(candidate.module) <= tolerance)


def _carried_out(model: nn.Module, sites: Sites, learned: list[_Learned], chosen: Mapping[_Learned, _Chosen]) -> Report:
    """Edit the model, and give the new functions their fitted parameters; the report knows their maximum errors."""
    of_site = {site: chosen[function] for function in learned if function in chosen for site in function.calls}
    plan = make_plan(sites, _rules(of_site), skip_uneditable=True)
    paths = children_of(decide(model, plan), plan.edits)
    report = apply_plan(model, plan, look=False)
    far = {}
    with torch.no_grad():
        for site in (edit.site for edit in report.plan.edits):
            fitted = of_site[site].candidate.module
            for name, param in model.get_submodule(paths[site.key]).named_parameters():
                param.copy_(fitted.get_parameter(name))
            far[site] = of_site[site].difference.most
    return replace(report, far=far)


def _rules(of_site: Mapping[Site, _Chosen]) -> list[Rule]:
    """A swap for each function that is put in, at all the sites that get it."""
    places: dict[tuple[str, tuple[tuple[str, Any], ...]], list[str]] = {}
    for site, chosen in of_site.items():
        candidate = chosen.candidate
        places.setdefault((candidate.make, tuple(candidate.params.items())), []).append(str(site))
    return [
        swap(make, params=dict(params), optional=True, site=tuple(named)) for (make, params), named in places.items()
    ]


def _refused(report: Report) -> dict[Site, str]:
    """The sites that could not be edited, with the reason."""
    return {site: reason for site, reason in report.plan.kept if reason.startswith("cannot be edited")}


def _row(learned: _Learned, site: Site, chosen: _Chosen | None, refused: str, tolerance: float) -> Simplified:
    was = in_words(site.activation, learned.module)
    before = operators_of(site.activation, learned.module)
    reason = learned.reason or refused
    if chosen is not None and not reason:
        after = chosen.candidate
        return Simplified(site, was, str(after), before, after.operators, chosen.difference.error)
    return Simplified(site, was, was, before, before, reason=reason or f"nothing cheaper is within {tolerance:g}")
