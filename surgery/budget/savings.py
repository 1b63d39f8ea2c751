"""Savings: how much of a network's cost each action saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from surgery.activations import row_of
from surgery.cost.action import Action, rules_of
from surgery.cost.counts import elements, macs_by_module
from surgery.cost.deployed import deployed
from surgery.cost.table import LatencyTable
from surgery.look.site import Sites
from surgery.transforms import transform

_LEAST = 1e-3  # of the time of a network: what saves less is noise, and does not pay for being measured


@dataclass(frozen=True, slots=True, eq=False)
class Savings:
    """What the unedited network costs, and what each action saves of it; what saves nothing is left out."""

    total: float
    saved: Mapping[Action, float]

    def left(self, actions: Iterable[Action]) -> float:
        """What the network costs after these actions, if savings add up: never less than nothing."""
        return max(self.total - sum(self.saved[action] for action in actions), 0.0)


def of_relus(sites: Sites, actions: Iterable[Action]) -> Savings:
    """Elements of activations per image: of those that become linear or disappear."""
    return _of_calls({str(site): elements(site) for site in sites}, actions)


def of_sites(sites: Sites, actions: Iterable[Action]) -> Savings:
    """Calls of nonlinearities: those that become linear or disappear."""
    return _of_calls({str(site): int(elements(site) > 0) for site in sites}, actions)


def of_macs(model: nn.Module, sites: Sites, actions: Iterable[Action]) -> Savings:
    """Multiply-adds per image: those of blocks that are dropped, and what merging others saves."""
    listed, counts = list(actions), macs_by_module(model, sites.example)
    merges, left = [action for action in listed if action.what == "merge"], dict[str, int]()
    if merges:
        edited, _ = transform(model, rules_of(merges), sites.example)
        left = macs_by_module(deployed(edited, sites.example), sites.example)
    saved = {
        action: counts.get(action.place, 0) - (left.get(action.place, 0) if action.what == "merge" else 0)
        for action in listed if action.what in ("drop", "merge")
    }  # fmt: skip
    return Savings(counts.get("", 0), {action: count for action, count in saved.items() if count > 0})


def _of_calls(counts: Mapping[str, int], actions: Iterable[Action]) -> Savings:
    """To merge a block is not considered: for calls, it is no better than affine maps in it."""
    linear = [
        action for action in actions if action.what != "merge" and (not action.to or row_of(action.to).role == "linear")
    ]
    saved = {action: float(sum(counts[name] for name in action.sites)) for action in linear}
    return Savings(float(sum(counts.values())), {action: count for action, count in saved.items() if count})


def of_times(table: LatencyTable, actions: Iterable[Action]) -> Savings:
    """Milliseconds: those that the block around an action takes less, if that is not a rounding of the whole time."""
    total = table.network.ms
    saved = {action: table.saved(action) for action in actions}
    return Savings(total, {action: ms for action, ms in saved.items() if ms is not None and ms > _LEAST * total})
