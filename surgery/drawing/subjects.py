"""Subjects: what can be drawn: a model, an edited one as it was and as it is, two networks, a plan, a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from surgery.drawing.cells import Cell, cells_of_pair, cells_of_plan, cells_of_sites
from surgery.drawing.drawing import Drawing
from surgery.drawing.past import BLOCK_NOTES, as_it_was, notes_of, rules_of
from surgery.drawing.stages import stages_of
from surgery.errors import BadValue
from surgery.history.history import steps_of
from surgery.look.finder import find_sites
from surgery.look.site import BLOCK, Site, Sites
from surgery.plan.plan import Plan
from surgery.plan.report import Report
from surgery.text import number_of

Drawable = nn.Module | Sites | Plan | Report

_NO_NOTES: Mapping[str, str] = MappingProxyType({})


def drawing_of(
    network: Drawable, after: nn.Module | Sites | None = None, example: Any = None, *, undone: bool = True
) -> Drawing:
    """The drawing of a network, of a plan or a report, or of two networks.

    If `undone`, an edited model is drawn as the second of two, behind what it was.

    Raises:
        BadValue: `network` is none of these, or there is another one after a plan or a report.
        CannotLook: a model does not run, see `find_sites`.
    """
    if isinstance(network, Plan | Report):
        if after is not None:
            raise BadValue("A plan or a report has its own network after the edit.", asked="after=...",
                           try_="report.before and report.after, or another report")  # fmt: skip
        return _of_plan(network) if isinstance(network, Plan) else _of_report(network)
    if after is not None:
        return _of_pair(network, after, example)
    past = as_it_was(network) if undone and isinstance(network, nn.Module) else None
    if past is not None and isinstance(network, nn.Module):
        steps = steps_of(network)
        return replace(_of_pair(past, network, example, notes_of(steps)), rules=rules_of(steps))
    sites = _sites_of(network, example)
    return _made(sites, cells_of_sites(sites), notes=_unseen(sites), shared=_shared(sites, network))


def _of_pair(before: Any, after: Any, example: Any, block_notes: Mapping[str, str] = _NO_NOTES) -> Drawing:
    """Two networks, the first as it is, the second beside it."""
    sites, other = _sites_of(before, example), _sites_of(after, example)
    return _made(
        sites, cells_of_pair(sites, other, block_notes), block_notes, notes=(*_unseen(sites), *_unseen(other)),
        shared=_shared(sites, before), before_and_after=True,
    )  # fmt: skip


def _of_plan(plan: Plan) -> Drawing:
    notes = {str(edit.site): BLOCK_NOTES[edit.make] for edit in plan.edits if edit.site.activation == BLOCK}
    return _made(
        plan.sites, cells_of_plan(plan), notes, rules=tuple(map(str, plan.rules)), notes=_unseen(plan.sites),
        shared=_shared(plan.sites), before_and_after=True,
    )  # fmt: skip


def _of_report(report: Report) -> Drawing:
    """Its plan, which was carried out as it is, and the parameters that came and went."""
    drawing = _of_plan(report.plan)
    named = (("new parameter", report.added), ("removed parameter", report.removed), ("unused parameter", report.idle))
    return replace(drawing, notes=(*drawing.notes, *(number_of(what, names) for what, names in named if names)))


def _made(sites: Sites, cells: list[Cell], block_notes: Mapping[str, str] = _NO_NOTES, **facts: Any) -> Drawing:
    stages = stages_of(cells, map(str, sites.blocks), block_notes)
    return Drawing(sites.model_kind, sites, tuple(cells), stages, **facts)


def _sites_of(network: Any, example: Any) -> Sites:
    if isinstance(network, Sites):
        return network
    if not isinstance(network, nn.Module):
        raise BadValue(
            "This is not a network.", asked=type(network).__name__, try_="a model, its sites, a plan or a report"
        )
    return find_sites(network, example)


def _unseen(sites: Sites) -> tuple[str, ...]:
    return tuple(f"not seen in {mode} mode: {reason}" for mode, reason in sites.unseen)


def _shared(sites: Sites, network: Any = None) -> dict[Site, int]:
    """How many calls an activation object has, where it has several; without the model, objects are told by path."""
    modules = dict(network.named_modules(remove_duplicate=False)) if isinstance(network, nn.Module) else {}
    objects = {site: id(modules[site.module]) if site.module in modules else site.module for site in sites}
    calls = Counter(objects[site] for site in {site.key[:-1]: site for site in sites}.values())
    return {site: calls[of] for site, of in objects.items() if of is not None and calls[of] > 1}
