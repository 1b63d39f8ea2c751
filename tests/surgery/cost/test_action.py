"""Actions: which a menu offers where, which exclude each other, and the rules that carry them out."""

from __future__ import annotations

import json

import pytest

import surgery
from recipes.models.build import build
from surgery.cost.action import Action, actions_at, checked_function, checked_menu, inner_sites, rules_of
from surgery.cost.editable import editable, editable_groups, groups_of
from surgery.errors import BadFile, BadValue, UnknownName
from tests.surgery.budget.networks import images, small_net

STEM, INNER, BEHIND = "relu", "blocks.0.relu 1/2", "blocks.0.relu 2/2"


def offered(*menu: str, swap_to: str = "silu") -> list[str]:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    plan, decisions = editable(model, sites)
    return list(map(str, actions_at(groups_of(model, plan, decisions), sites, checked_menu(menu), swap_to)))


def test_calls_and_blocks_are_offered_in_order_of_execution() -> None:
    assert offered("erase", "drop") == [
        f"erase {STEM}", "drop blocks.0", f"erase {INNER}", f"erase {BEHIND}", "drop blocks.1",
        "erase blocks.1.relu 1/2", "erase blocks.1.relu 2/2",
    ]  # fmt: skip


def test_a_block_that_can_be_merged_is_offered() -> None:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    groups = editable_groups(model, sites)
    found = actions_at(groups, sites, ("merge",), "relu", mergeable={"blocks.1"})
    assert found == (Action("merge", "blocks.1", ("blocks.1.relu 1/2",), "blocks.1", "affine"),)
    assert rules_of(found) == (
        surgery.erase(site=("blocks.1.relu 1/2",), stand_in="affine"), surgery.move_padding(block=("blocks.1",)),
    )  # fmt: skip


def test_a_block_is_merged_by_what_is_inside_it() -> None:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    plan, decisions = editable(model, sites)
    assert inner_sites(groups_of(model, plan, decisions), "blocks.0") == (INNER,)


def test_a_module_without_a_sum_is_merged_like_its_siblings() -> None:
    model = build("timm/mobilenetv2_100")
    calls = groups_of(model, *editable(model, surgery.find_sites(model)))
    assert inner_sites(calls, "blocks.1.0") == ("blocks.1.0.bn1.act", "blocks.1.0.bn2.act")
    assert inner_sites(calls, "blocks.1.1") == ("blocks.1.1.bn1.act", "blocks.1.1.bn2.act")


def test_affine_maps_that_are_not_fitted_are_behind_norms() -> None:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    plan, decisions = editable(model, sites)
    found = actions_at(groups_of(model, plan, decisions), sites, ("affine",), "relu", fitted=False)
    assert [action.place for action in found] == [INNER, "blocks.1.relu 1/2"] and len(offered("affine")) == 5


def test_a_swap_is_offered_for_other_functions_only() -> None:
    assert offered("swap", swap_to="relu") == []
    assert offered("swap")[0] == f"swap {STEM} to silu"


@pytest.mark.parametrize("menu", [(), ("keep",)])
def test_a_menu_has_something_to_do(menu: tuple[str, ...]) -> None:
    with pytest.raises(BadValue, match="nothing but to keep"):
        checked_menu(menu)


def test_an_unknown_entry_is_named() -> None:
    with pytest.raises(UnknownName, match=r"'erace' is not on the menu(?s:.*)hint: +erase"):
        checked_menu(["erace"])


def test_what_is_swapped_to_has_no_parameters() -> None:
    assert checked_function("ReLU") == "relu"
    with pytest.raises(BadValue, match="has learned parameters"):
        checked_function("pwlu")
    with pytest.raises(UnknownName):
        checked_function("rellu")


DROP = Action("drop", "blocks.0", (INNER, BEHIND), "blocks.0")
MERGE = Action("merge", "blocks.0", (INNER,), "blocks.0", "affine")
ERASE = Action("erase", INNER, (INNER,), "blocks.0", "identity")
AFFINE = Action("affine", INNER, (INNER,), "blocks.0", "affine")
OTHER = Action("erase", STEM, (STEM,), None, "identity")


def test_actions_on_the_same_calls_exclude_each_other() -> None:
    assert DROP.excludes(ERASE) and ERASE.excludes(DROP) and ERASE.excludes(AFFINE) and DROP.excludes(MERGE)
    assert not DROP.excludes(OTHER)


def test_a_dropped_block_covers_what_is_done_inside_it() -> None:
    same = Action("merge", "blocks.0", (INNER, BEHIND), "blocks.0", "affine")
    assert DROP.covers(same) and not same.covers(DROP) and MERGE.covers(AFFINE) and not MERGE.covers(MERGE)
    assert DROP.covers(ERASE) and DROP.covers(MERGE) and not ERASE.covers(DROP) and not ERASE.covers(AFFINE)


def test_a_block_around_another_covers_it() -> None:
    inner = Action("drop", "blocks.0.mlp", (), "blocks.0.mlp")
    assert DROP.excludes(inner) and DROP.covers(inner) and not inner.covers(DROP)


def test_rules_name_the_calls_and_the_blocks() -> None:
    second = Action("drop", "blocks.1", ("blocks.1.relu 1/2",), "blocks.1")
    assert rules_of([ERASE, DROP, OTHER, second]) == (
        surgery.erase(site=(INNER, STEM)), surgery.drop(block=("blocks.0", "blocks.1")),
    )  # fmt: skip


def test_an_action_survives_a_file() -> None:
    assert Action.from_data(json.loads(json.dumps(DROP.to_data()))) == DROP


@pytest.mark.parametrize("change", [{"what": "burn"}, {"sites": 3}])
def test_a_broken_action_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadFile, match="not an action"):
        Action.from_data(DROP.to_data() | change)
