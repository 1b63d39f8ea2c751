"""Savings: what actions save of each cost."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

import surgery
from surgery.budget.savings import Savings, of_macs, of_relus, of_sites, of_times
from surgery.cost.action import MENU, Action, actions_at
from surgery.cost.editable import editable, editable_groups, groups_of
from surgery.cost.paddings import paddings_of
from surgery.cost.stopwatch import Timing
from surgery.cost.table import NETWORK, Row, kept
from surgery.look.site import Sites
from tests.surgery.budget.networks import images, small_net
from tests.surgery.cost.test_table import AFFINE, DROP, ERASE, filled


class Widening(nn.Module):
    """More channels inside than outside."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.act, self.narrow = nn.Conv2d(4, 24, 1), nn.ReLU(), nn.Conv2d(24, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.wide(x)))


class Expanded(nn.Module):
    """One residual block that is cheaper merged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 4, 1), Widening(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


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


def test_multiply_adds_are_saved_by_merging_if_there_are_fewer() -> None:
    model = Expanded()
    sites = surgery.find_sites(model, images(2))
    groups = editable_groups(model, sites)
    mergeable = paddings_of(model, sites, groups)
    (merge,) = actions_at(groups, sites, ("merge",), "relu", mergeable=mergeable)
    found = of_macs(model, sites, [merge])
    # From 4 to 24 channels and back over 3 x 3 pixels, then one 3 x 3 convolution of 4 channels.
    assert found.saved == {merge: 64 * (4 * 24 + 9 * 24 * 4) - 64 * 9 * 4 * 4}


def test_times_are_those_of_the_table() -> None:
    found = of_times(filled(), [ERASE, AFFINE, DROP])
    assert dict(found.saved) == {ERASE: 0.5, DROP: 2.0} and found.total == 5.0
    table = filled()
    large = replace(table, rows=table.rows | {kept(NETWORK): Row(NETWORK, "keep", Timing(600.0, 600.0, 9))})
    assert set(of_times(large, [ERASE, DROP]).saved) == {DROP}  # 0.5 of 600 ms is noise
    assert found.left([ERASE]) == 4.5 and Savings(1.0, found.saved).left([DROP]) == 0.0
