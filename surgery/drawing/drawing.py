"""Drawing: all that a page shows of a network, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from surgery.dataflow.flow import tensors_in
from surgery.drawing.cells import Cell, State, cells_of_pair, cells_of_plan, cells_of_sites
from surgery.drawing.site_values import Given, SiteValues
from surgery.drawing.stages import Stage, sizes_in_words, stages_of
from surgery.errors import BadValue
from surgery.history.history import steps_of
from surgery.isolation.meta_copy import copied
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.look.site import BLOCK, Site, Sites
from surgery.plan.plan import Plan
from surgery.plan.report import Report
from surgery.text import number_of
from surgery.transforms import undo

Drawable = nn.Module | Sites | Plan | Report

_BLOCK_NOTES = {"dropped": "dropped", "moved_padding": "padding moved"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """The calls of a network and what becomes of them, in stages; the rules that ask for it, and notes.

    `sites` are the calls before the edit, `before_and_after` whether there is one. `shared` is how many calls an
    activation object has, where it has several.
    """

    title: str
    sites: Sites
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    before_and_after: bool
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shared: Mapping[Site, int] = field(default_factory=dict)
    values: SiteValues | None = None

    @classmethod
    def of(
        cls, network: Drawable, after: nn.Module | Sites | None = None, example: Any = None, *, undone: bool = True
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
        if undone and isinstance(network, nn.Module) and after is None and _can_be_undone(network):
            network, after = undo(copied(network)), network
        sites, other = _sites_of(network, example), None if after is None else _sites_of(after, example)
        cells = cells_of_sites(sites) if other is None else cells_of_pair(sites, other)
        notes = _unseen(sites) if other is None else (*_unseen(sites), *_unseen(other))
        shared = _shared(sites, network if isinstance(network, nn.Module) else None)
        return _made(sites, cells, notes=notes, shared=shared, before_and_after=other is not None)

    def with_values(self, given: Given, name: str) -> Drawing:
        """The same with values at the calls and the blocks of the network before the edit.

        Raises:
            BadValue, UnknownName: see `SiteValues.of`.
        """
        known = {str(site) for site in self.sites} | {row.path for stage in self.stages for row in stage.rows}
        return replace(self, values=SiteValues.of(given, name, known | {str(block) for block in self.sites.blocks}))

    @property
    def states(self) -> Counter[State]:
        """How many calls are in each state."""
        return Counter(cell.state for cell in self.cells)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(row.is_block for stage in self.stages for row in stage.rows)

    @property
    def input_shape(self) -> str:
        """The shape of the input of the network: "2 x 3 x 224 x 224"; of several tensors that of each."""
        example = self.sites.example
        given = tensors_in((example.args, example.kwargs)) if isinstance(example, Example) else ()
        return ", ".join(sizes_in_words(tensor.shape) for tensor in given)


def _can_be_undone(model: nn.Module) -> bool:
    """Whether a model was edited, and can be shown as it was before."""
    steps = steps_of(model)
    return bool(steps) and all(step.changes for step in steps)


def _of_plan(plan: Plan) -> Drawing:
    notes = {
        str(edit.site): _BLOCK_NOTES[edit.make] for edit in plan.edits if edit.site.activation == BLOCK
    }  # fmt: skip
    return _made(
        plan.sites, cells_of_plan(plan), rules=tuple(map(str, plan.rules)), notes=_unseen(plan.sites),
        block_notes=notes, shared=_shared(plan.sites), before_and_after=True,
    )  # fmt: skip


def _of_report(report: Report) -> Drawing:
    drawing = _of_plan(report.plan)
    named = (("new parameter", report.added), ("removed parameter", report.removed), ("unused parameter", report.idle))
    return replace(drawing, notes=(*drawing.notes, *(number_of(what, names) for what, names in named if names)))


def _made(
    sites: Sites, cells: list[Cell], *, block_notes: Mapping[str, str] = MappingProxyType({}), **more: Any
) -> Drawing:
    return Drawing(sites.model_kind, sites, tuple(cells), stages_of(cells, map(str, sites.blocks), block_notes), **more)


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


def _shared(sites: Sites, model: nn.Module | None = None) -> dict[Site, int]:
    """How many calls an activation object has, where it has several; without the model, objects are told by path."""
    modules = {} if model is None else dict(model.named_modules(remove_duplicate=False))
    objects = {site: id(modules[site.module]) if site.module in modules else site.module for site in sites}
    calls = Counter(objects[site] for site in {site.key[:-1]: site for site in sites}.values())
    return {site: calls[of] for site, of in objects.items() if of is not None and calls[of] > 1}
