"""Editable: the calls of nonlinearities that can be edited, each on its own."""

from __future__ import annotations

from torch import nn

from surgery.edit.strategy import Decision, children_of, decide
from surgery.errors import SurgeryError
from surgery.look.site import Site, Sites
from surgery.plan.plan import Plan, make_plan, without
from surgery.plan.rules import swap

Group = tuple[Site, ...]  # the calls that are edited as one


def editable(model: nn.Module, sites: Sites) -> tuple[Plan, tuple[Decision, ...]]:
    """A plan that edits every nonlinearity that can be edited separately, and how; its `kept` says what cannot.

    Raises:
        NothingPicked: none can.
    """
    calls = tuple(str(site) for site in sites if site.role == "nonlinearity" and "eval" in site.modes)
    plan = make_plan(sites, swap("affine", site=calls), skip_uneditable=True)
    while True:
        try:
            return plan, decide(model, plan)
        except SurgeryError as refusal:
            if not {edit.site for edit in plan.edits} & set(refusal.sites):
                raise
            plan = without(plan, refusal.sites, str(refusal).partition("\n")[0].rstrip("."))


def editable_groups(model: nn.Module, sites: Sites) -> tuple[Group, ...]:
    """The calls that are edited as one.

    Raises:
        NothingPicked: none can be edited.
    """
    return groups_of(model, *editable(model, sites))


def groups_of(model: nn.Module, plan: Plan, decisions: tuple[Decision, ...]) -> tuple[Group, ...]:
    """The calls that are edited as one: the runs of the same code, and calls in modules with several names."""
    paths = children_of(decisions, plan.edits)
    found: dict[tuple[int, str], list[Site]] = {}
    for site in (edit.site for edit in plan.edits):
        owner, _, child = paths[site.key].rpartition(".")
        found.setdefault((id(model.get_submodule(owner)), child), []).append(site)
    return tuple(map(tuple, found.values()))
