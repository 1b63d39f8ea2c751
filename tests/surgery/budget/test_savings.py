"""Savings: what actions save of each cost."""

from __future__ import annotations

import surgery
from surgery.budget.savings import Savings, of_macs, of_relus, of_sites, of_times
from surgery.cost.action import MENU, Action, actions_at
from surgery.cost.editable import editable, groups_of
from surgery.look.site import Sites
from tests.surgery.budget.networks import images, small_net
from tests.surgery.cost.test_table import AFFINE, DROP, ERASE, filled


def offered() -> tuple[Sites, tuple[Action, ...]]:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    plan, decisions = editable(model, sites)
    return sites, actions_at(groups_of(model, plan, decisions), sites, MENU, "silu")


def named(savings: Savings) -> dict[str, float]:
    return {str(action): saved for action, saved in savings.saved.items() if "blocks.1" not in str(action)}


INSIDE = [f"{what} blocks.0.relu {turn}/2" for turn in (1, 2) for what in ("erase", "affine")]


def test_relus_are_saved_by_what_is_linear() -> None:
    sites, actions = offered()
    found = of_relus(sites, actions)
    assert found.total == 1280
    assert named(found) == dict.fromkeys(["erase relu", "affine relu", *INSIDE], 256.0) | {"drop blocks.0": 512.0}


def test_sites_count_one_each() -> None:
    found = of_sites(*offered())
    assert found.total == 5 and named(found)["drop blocks.0"] == 2 and named(found)["erase relu"] == 1


def test_multiply_adds_are_saved_by_dropping() -> None:
    sites, actions = offered()
    found = of_macs(small_net(), sites, actions)
    assert named(found) == {"drop blocks.0": 2 * 64 * 4 * 4 * 9} and found.total == 64 * 12 + 4 * 64 * 144 + 12


def test_times_are_those_of_the_table() -> None:
    found = of_times(filled(), [ERASE, AFFINE, DROP])
    assert dict(found.saved) == {ERASE: 0.5, DROP: 2.0} and found.total == 5.0
    assert found.left([ERASE]) == 4.5
