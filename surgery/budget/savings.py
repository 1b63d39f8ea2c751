"""Savings: how much of a network's cost each action saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from surgery.activations import row_of
from surgery.cost.action import Action
from surgery.cost.counts import elements, macs_by_module
from surgery.cost.table import LatencyTable
from surgery.look.site import Sites


@dataclass(frozen=True, slots=True, eq=False)
class Savings:
    """What the unedited network costs, and what each action saves of it; what saves nothing is left out."""

    total: float
    saved: Mapping[Action, float]

    def left(self, actions: Iterable[Action]) -> float:
        """What the network costs after these actions, if savings add up."""
        return self.total - sum(self.saved[action] for action in actions)


def of_relus(sites: Sites, actions: Iterable[Action]) -> Savings:
    """Elements of activations per image: of those that become linear or disappear."""
    return _of_calls({str(site): elements(site) for site in sites}, actions)


def of_sites(sites: Sites, actions: Iterable[Action]) -> Savings:
    """Calls of nonlinearities: those that become linear or disappear."""
    return _of_calls({str(site): int(elements(site) > 0) for site in sites}, actions)


def of_macs(model: nn.Module, sites: Sites, actions: Iterable[Action]) -> Savings:
    """Multiply-adds per image: those of blocks that are dropped."""
    counts = macs_by_module(model, sites.example)
    return Savings(counts.get("", 0), {
        action: counts[action.place] for action in actions if action.what == "drop" and counts.get(action.place)
    })  # fmt: skip


def _of_calls(counts: Mapping[str, int], actions: Iterable[Action]) -> Savings:
    """To merge a block is not considered: for calls, it is no better than affine maps in it."""
    linear = [
        action for action in actions if action.what != "merge" and (not action.to or row_of(action.to).role == "linear")
    ]
    saved = {action: float(sum(counts[name] for name in action.sites)) for action in linear}
    return Savings(float(sum(counts.values())), {action: count for action, count in saved.items() if count})


def of_times(table: LatencyTable, actions: Iterable[Action]) -> Savings:
    """Milliseconds: those that the block around an action takes less."""
    saved = {action: table.saved(action) for action in actions}
    return Savings(table.network.ms, {action: ms for action, ms in saved.items() if ms})
