"""Front: the point of each budget, and what a front prints, writes and reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.budget.front import Candidate, Front, Point, merged
from surgery.cost.action import Action
from surgery.errors import BadFile, BadValue
from surgery.predictions.damage import NO_DAMAGE, Damage
from tests.surgery.budget.networks import images, small_net

INNER, BEHIND = "blocks.0.relu 1/2", "blocks.0.relu 2/2"
STEM = Action("erase", "relu", ("relu",), None, "identity")
ERASE = Action("erase", INNER, (INNER,), "blocks.0", "identity")
DROP = Action("drop", "blocks.0", (INNER, BEHIND), "blocks.0")
SITES = surgery.find_sites(small_net(), images(2))


def point(predicted: float, kl: float, *actions: Action, **facts: Any) -> Point:
    return Point(actions, predicted, kl, Damage(kl, kl / 10, 20), **facts)


POINTS = (
    Point((), 10.0, 0.0, NO_DAMAGE),
    point(8.0, 0.01, STEM),
    point(8.5, 0.03, ERASE),  # dominated
    point(5.0, 0.2, STEM, DROP, cost=5.5, reported=Damage(0.3, 0.02, 50, -0.015, 0.005)),
)


def front(kind: Any = "latency") -> Front:
    candidates = (Candidate(STEM, Damage(0.01, 0.001, 20), 2.0),)
    return Front(SITES, kind, 10.0, POINTS, candidates, (("chosen on", "20 images"),), ("gate: locked",))


def test_the_best_points_are_those_that_no_other_dominates() -> None:
    assert front().best == (POINTS[3], POINTS[1], POINTS[0])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"speedup": 1.2}, 1), ({"ms": 8.0}, 1), ({"speedup": 1.5}, 3), ({"damage": 0.05}, 1), ({"damage": 0.2}, 3),
        ({"damage": 0.3, "speedup": 1.1}, 1),
    ],
)  # fmt: skip
def test_a_budget_picks_its_point(budget: dict[str, float], expected: int) -> None:
    assert front().point(**budget) is POINTS[expected]


def test_each_call_and_block_is_drawn_with_its_mildest_edit() -> None:
    affine = Candidate(Action("affine", INNER, (INNER,), "blocks.0", "affine"), Damage(0.02, 0.001, 20), 0.5)
    candidates = (Candidate(ERASE, Damage(0.03, 0.001, 20), 1.0), affine, Candidate(DROP, Damage(0.2, 0.1, 20), 4.0))
    name, values = replace(front(), candidates=candidates).site_values()
    assert name == "KL of the mildest edit, nats" and values == {INNER: 0.02, "blocks.0": 0.2}


def test_the_plan_is_on_the_sites_of_the_model() -> None:
    plan = front().within(speedup=1.5)
    assert plan.sites is SITES and plan.rules == POINTS[3].rules
    edited = small_net()
    surgery.apply_plan(edited, plan)
    assert [str(site) for site in surgery.find_sites(edited, images(2))] == ["blocks.1.relu 1/2", "blocks.1.relu 2/2"]


def test_a_count_is_a_budget_of_its_own_cost() -> None:
    assert front("relu_count").point(relu_count=8) is POINTS[1]
    assert front("sites").point(sites=5.5) is POINTS[3] and front("macs").point(macs=9) is POINTS[1]
    for budget in ({"relu_count": 8.0}, {"macs": 8.0}):
        with pytest.raises(BadValue, match="was chosen by latency"):
            front().point(**budget)
    for budget in ({"ms": 8.0}, {"speedup": 1.1}):
        with pytest.raises(BadValue, match=r"was chosen by sites(?s:.*)cost='latency'"):
            front("sites").point(**budget)


def test_what_cannot_be_reached_names_the_nearest_point() -> None:
    with pytest.raises(
        BadValue, match=r"No point of the front(?s:.*)speedup=3(?s:.*)nearest: 5.5 ms, 1.82x at damage 0.2"
    ):
        front().point(speedup=3)
    with pytest.raises(BadValue, match=r"Only the unedited network(?s:.*)nearest: 8 ms, 1.25x at damage 0.01"):
        front().point(damage=0.001)
    for wrong in ({"speedup": 0}, {"damage": -1.0}, {"ms": float("nan")}, {"ms": "2"}):
        with pytest.raises(BadValue, match="a number above 0"):
            front().point(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="No budget"):
        front().within()


def test_a_front_prints_its_best_points() -> None:
    lines = str(front()).splitlines()
    assert lines[0] == "3 points of SmallNet, 10 ms unedited, chosen among 1 actions"
    assert " ".join(lines[2].split()) == (
        "5.5 5 1.82x 0.2000 ± 0.0392 0.2000 0.3000 ± 0.0392 -1.50 ± 0.98 1 drop, 1 erase greedy"
    )
    assert "  chosen on: 20 images" in lines and "  left out: gate: locked" in lines
    assert front()._repr_html_().count("<tr>") == 4


def test_additivity_is_measured_over_predicted() -> None:
    assert front().additivity == (
        "damage 1.00 to 1.00 times the sum of single actions (median 1.00);"
        " savings 0.90 to 0.90 times the sum of single actions (median 0.90)"
    )


def test_a_front_survives_a_file(tmp_path: Path) -> None:
    front().save(tmp_path / "front.json")
    read = Front.from_json((tmp_path / "front.json").read_text(), SITES)
    assert (read.points, read.candidates, read.kind, read.total) == (POINTS, front().candidates, "latency", 10.0)
    assert (read.conditions, read.left_out) == (front().conditions, front().left_out)
    assert read.within(speedup=1.2).rules == POINTS[1].rules


@pytest.mark.parametrize("text", ["", "{}", '{"format": 7}'])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(BadFile, match="not a front"):
        Front.from_json(text, SITES)


def test_a_front_of_another_model_is_refused() -> None:
    text = front().to_json().replace('"SmallNet"', '"LargeNet"')
    with pytest.raises(BadFile, match="of another model"):
        Front.from_json(text, SITES)


def test_a_front_is_drawn_as_svg(tmp_path: Path) -> None:
    assert front().plot(tmp_path / "front.svg").read_text().count("<circle") == 4
    with pytest.raises(BadValue, match=r"drawn as SVG(?s:.*)front.svg"):
        front().plot(tmp_path / "front.png")


def test_points_of_both_searches_are_listed_once() -> None:
    greedy, exact = [POINTS[0], POINTS[1]], [point(8.0, 0.01, STEM, by="exact"), point(9.0, 0.1, ERASE, by="exact")]
    assert [(str(found), found.by) for found in merged(greedy, exact)] == [
        ("erase relu", "both"), (f"erase {INNER}", "exact"), ("nothing", "greedy"),
    ]  # fmt: skip
