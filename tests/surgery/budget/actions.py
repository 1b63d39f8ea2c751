"""Actions at calls and blocks that exist on paper only."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.cost.action import Action


def erase(site: str, block: str | None = None) -> Action:
    """Erase a call."""
    return Action("erase", site, (site,), block, "identity")


def affine(site: str, block: str | None = None) -> Action:
    """An affine map instead of a call."""
    return Action("affine", site, (site,), block, "affine")


def drop(block: str, *sites: str) -> Action:
    """Drop a block with these calls."""
    return Action("drop", block, sites, block)


def merge(block: str, *sites: str) -> Action:
    """Merge what is between these calls of a block."""
    return Action("merge", block, sites, block, "affine")


def network(blocks: int) -> list[Action]:
    """Blocks of two calls, the first of which is inside: each can be dropped or merged, its calls erased or affine."""
    found = []
    for number in range(blocks):
        name = f"b{number}"
        inner, behind = f"{name}.inner", f"{name}.behind"
        found += [
            drop(name, inner, behind),
            merge(name, inner),
            erase(inner, name),
            affine(inner, name),
            erase(behind, name),
        ]
    return found


def total(values: Mapping[Action, float], actions: tuple[Action, ...]) -> float:
    """The sum of the values of these actions."""
    return sum(values[action] for action in actions)
