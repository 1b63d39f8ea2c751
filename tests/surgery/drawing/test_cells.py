"""Cells: what becomes of each call, of a plan and between two networks."""

from __future__ import annotations

import pytest

import surgery
from surgery import Rule
from surgery.drawing.cells import cells_of_pair, cells_of_plan, cells_of_sites
from surgery.plan.plan import without
from tests.models import ResidualNet, ThriceInPlace

SITES = surgery.find_sites(ResidualNet(), ResidualNet.example)


def test_without_an_edit_there_are_only_calls() -> None:
    cells = cells_of_sites(SITES)
    assert [(cell.state, cell.what) for cell in cells] == [("call", "relu")] * 5


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (surgery.erase_relu(), ["kept", "kept", "erased", "kept", "erased"]),
        (surgery.erase(block="layer1.0", stand_in="affine"), ["kept", "affine", "affine", "kept", "kept"]),
        (surgery.swap("gelu", position=1), ["kept", "swapped", "kept", "swapped", "kept"]),
        (surgery.drop(block="layer1.0"), ["kept", "dropped", "dropped", "kept", "kept"]),
        (surgery.rectify_scores(), ["kept"] * 5 + ["added"]),
    ],
)
def test_a_plan_says_what_becomes_of_each(rule: Rule, expected: list[str]) -> None:
    cells = cells_of_plan(surgery.make_plan(SITES, rule))
    assert [cell.state for cell in cells] == expected
    assert {cell.why for cell in cells if cell.state not in ("kept", "call")} == {"rule 1"}


def test_a_cell_in_words() -> None:
    rules = [surgery.swap("gelu", position=1, fade=True), surgery.erase(position=2), surgery.rectify_scores()]
    cells = cells_of_plan(surgery.make_plan(SITES, rules))
    assert [cell.what for cell in cells] == [
        "relu, kept", "relu, swapped for gelu, fading", "relu, erased", "relu, swapped for gelu, fading",
        "relu, erased", "rectified_scores, added",
    ]  # fmt: skip
    assert [cell.before for cell in cells] == ["relu"] * 5 + [""]
    assert [cell.after for cell in cells] == ["relu", "gelu", "", "gelu", "", "rectified_scores"]


def test_what_cannot_be_edited_is_refused_with_its_reason() -> None:
    plan = surgery.make_plan(SITES, surgery.erase_relu())
    skipped = without(plan, [SITES[2]], "it is in use")
    cells = cells_of_plan(skipped)
    assert (cells[2].state, cells[2].why, cells[2].after) == ("refused", "it is in use", "relu")


@pytest.mark.parametrize("position", [1, 2])
def test_an_edited_network_is_compared_call_by_call(position: int) -> None:
    edited, report = surgery.transform(ResidualNet(), surgery.erase(position=position), ResidualNet.example)
    cells = cells_of_pair(SITES, surgery.find_sites(edited, ResidualNet.example))
    assert [cell.state for cell in cells] == [cell.state for cell in cells_of_plan(report.plan)]


def test_what_is_gone_with_a_block_is_dropped() -> None:
    edited, _ = surgery.transform(ResidualNet(), surgery.drop(block="layer1.0"), ResidualNet.example)
    other = surgery.find_sites(edited, ResidualNet.example)
    assert [cell.state for cell in cells_of_pair(SITES, other, {"layer1.0": "dropped"})] == [
        "kept", "dropped", "dropped", "kept", "kept",
    ]  # fmt: skip
    assert [cell.state for cell in cells_of_pair(SITES, other)].count("erased") == 2


def test_swapped_and_added_calls_of_another_network() -> None:
    swapped, _ = surgery.transform(ResidualNet(), surgery.swap("silu", block="layer1.1"), ResidualNet.example)
    other = surgery.find_sites(swapped, ResidualNet.example)
    assert [cell.what for cell in cells_of_pair(SITES, other)][3:] == ["relu, swapped for silu"] * 2
    cells = cells_of_pair(SITES, surgery.find_sites(ThriceInPlace(), ThriceInPlace.example))
    assert [cell.state for cell in cells] == ["erased"] * 5 + ["added"] * 3
    assert str(cells[-1].site) == "act 3/3"
