"""Choice: fronts of small networks, from the first image to the plan, and from where a choice stopped."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.budget.choice import choose
from surgery.budget.front import Front
from surgery.cost.action import rules_of
from surgery.cost.block_times import time_blocks
from surgery.cost.stopwatch import Timing
from surgery.errors import BadFile, BadValue, NothingPicked, UnknownName
from tests.surgery.budget.networks import batches, images, small_net


def chosen(cost: Any = "relu_count", menu: tuple[str, ...] = ("erase", "affine", "drop"), **options: Any) -> Front:
    return choose(small_net(), batches(labelled=True), menu, cost, worst=5.0, **options)


def kl(model: Any, plan: Any, data: Any) -> float:
    edited, _ = surgery.transform(model, plan.rules, images(2))
    whole = torch.cat([batch[0] for batch in data])
    with torch.no_grad():
        before, after = (network(whole).double().log_softmax(1) for network in (model, edited))
    return (before.exp() * (before - after)).sum(1).mean().item()


@pytest.mark.slow
def test_the_damage_of_a_point_is_that_of_its_plan() -> None:
    others = batches(labelled=True, seed=9)
    front = chosen(report_on=others)
    for point in front.best[:-1]:
        assert point.damage.kl == pytest.approx(kl(small_net(), point, batches(labelled=True)), rel=1e-4, abs=1e-9)
        assert point.reported is not None
        assert point.reported.kl == pytest.approx(kl(small_net(), point, others), rel=1e-4, abs=1e-9)
    plan = front.within(relu_count=600)
    assert sum(site.role == "nonlinearity" for site, _ in plan.kept if site in plan.sites.items) <= 5


def test_fitted_affine_maps_are_those_of_fit_affine() -> None:
    data = batches(labelled=True)
    plain, fitted = (chosen(menu=("affine",), fit=fit) for fit in (False, True))
    behind_norms = {"affine blocks.0.relu 1/2", "affine blocks.1.relu 1/2"}
    assert {str(one.action) for one in plain.candidates} == behind_norms
    assert len(fitted.candidates) == 5 and ("affine maps", "fitted to the images") in fitted.conditions
    for one in fitted.candidates:
        edited, _ = surgery.transform(small_net(), rules_of([one.action]), images(2))
        surgery.fit_affine(edited, data)
        whole = torch.cat([batch[0] for batch in data])
        with torch.no_grad():
            before, after = (network(whole).double().log_softmax(1) for network in (small_net(), edited))
        by_hand = (before.exp() * (before - after)).sum(1).mean().item()
        assert one.damage.kl == pytest.approx(by_hand, rel=1e-3, abs=1e-9), str(one.action)


def test_greedy_points_are_nested_and_the_front_reaches_both_ends() -> None:
    front = chosen()
    steps = sorted((p for p in front.points if p.by in ("greedy", "both")), key=lambda p: -p.predicted_cost)
    touched = [{site for action in point.actions for site in action.sites} for point in steps]
    assert all(before <= after for before, after in pairwise(touched))
    assert front.best[-1].actions == () and front.best[0].costs == 0.0
    assert all(a.costs < b.costs and a.damage.kl > b.damage.kl for a, b in pairwise(front.best))


def test_single_actions_can_be_screened_on_fewer_images() -> None:
    front = chosen(screen=4)
    assert {one.damage.images for one in front.candidates} == {4}
    assert {point.damage.images for point in front.points if point.actions} == {18}
    assert front.best[0].costs == 0.0


def test_every_action_that_saves_something_is_a_candidate() -> None:
    front = chosen(menu=("erase", "drop", "merge"))
    assert [str(one.action) for one in front.candidates] == [
        "erase relu", "drop blocks.0", "erase blocks.0.relu 1/2", "erase blocks.0.relu 2/2", "drop blocks.1",
        "erase blocks.1.relu 1/2", "erase blocks.1.relu 2/2",
    ]  # fmt: skip
    assert {one.damage.images for one in front.candidates} == {18}


@pytest.mark.parametrize("cost", ["sites", "macs"])
def test_other_counts_are_costs(cost: str) -> None:
    front = chosen(cost)
    assert front.kind == cost and front.best[0].costs < front.total


def test_latency_is_measured_and_predicted(tmp_path: Path) -> None:
    front = chosen("latency", ("drop",), path=tmp_path / "new" / "journal.json")
    assert (tmp_path / "new" / "journal.times.json").exists()
    assert all(point.cost is not None and point.cost > 0 for point in front.points) and front.total > 0
    assert any(name == "timed" for name, _ in front.conditions)


@pytest.mark.slow
def test_a_choice_goes_on_from_its_journal(tmp_path: Path) -> None:
    path, lines = tmp_path / "journal.json", list[str]()
    first = chosen("latency", ("erase", "drop"), path=path, report_on=batches(labelled=True, seed=9))
    again = chosen(
        "latency", ("erase", "drop"), path=path, report_on=batches(labelled=True, seed=9), progress=lines.append
    )
    assert again.to_json() == first.to_json()
    assert lines[0].startswith("7 actions: erase relu, drop blocks.0, ") and lines[0].endswith("; 18 images")
    assert any("measured alone" in line and "per s" not in line for line in lines)
    with pytest.raises(BadFile, match="another choice"):
        choose(small_net(1), batches(), ("drop",), "sites", path=path)


def test_an_interrupted_choice_keeps_what_it_measured(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(line: str) -> None:
        raise Interrupted

    path = tmp_path / "journal.json"
    with pytest.raises(Interrupted):
        chosen(path=path, progress=stop)
    assert chosen(path=path).to_json() == chosen().to_json()


def test_the_model_stays_as_it_is() -> None:
    model = small_net().train()
    before, state = repr(model), {name: value.clone() for name, value in model.state_dict().items()}
    choose(model, batches(), ("erase", "drop"), "sites", worst=5.0)
    assert repr(model) == before and model.training and not model._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_given_table_is_used_or_refused(tmp_path: Path) -> None:
    table = time_blocks(small_net(), images(2), ("drop",), rounds=2, path=tmp_path / "times.json")
    front = chosen("latency", ("drop",), table=tmp_path / "times.json")
    assert front.total == table.network.ms
    with pytest.raises(BadFile, match="layout channels_last, not contiguous"):
        chosen("latency", ("drop",), table=table, layout="contiguous")


def test_a_table_of_another_network_is_refused_before_it_is_used() -> None:
    table = time_blocks(small_net(), images(2), ("drop",), rounds=1)
    other = replace(table, rows=table.rows | {"drop layer9": replace(table.rows["drop blocks.0"], place="layer9")})
    with pytest.raises(BadFile, match=r"measured for something else(?s:.*)times of layer9"):
        chosen("latency", ("drop",), table=other)
    bare = replace(table, rows={name: row for name, row in table.rows.items() if row.place != "network"})
    with pytest.raises(BadFile, match="no time of the whole network"):
        chosen("latency", ("drop",), table=bare)


@pytest.mark.slow
def test_the_plan_of_merged_blocks_is_trainable_and_then_merged() -> None:
    model = small_net()
    table = time_blocks(model, images(2), ("merge",), rounds=1)
    fast = {name: replace(row, timing=Timing(0.0, 0.0, 1)) for name, row in table.rows.items() if row.what == "merge"}
    front = chosen("latency", ("merge",), table=replace(table, rows=table.rows | fast))
    point = max(front.points, key=lambda point: len(point.actions))
    assert [str(action) for action in point.actions] == ["merge blocks.0", "merge blocks.1"] and point.cost is not None
    edited, _ = surgery.transform(model, point.rules, images(2))
    assert kl(model, point, batches(labelled=True)) == pytest.approx(point.damage.kl, rel=1e-4)
    merged, _ = surgery.merge(edited, example=images(2))
    assert [layer.kernel_size for layer in merged.modules() if isinstance(layer, torch.nn.Conv2d)][1:] == [(5, 5)] * 2
    with torch.no_grad():
        torch.testing.assert_close(merged(images()), edited(images()), rtol=1e-4, atol=1e-5)


def test_what_a_table_lacks_is_told() -> None:
    table = time_blocks(small_net(), images(2), ("drop",), rounds=1)
    front = chosen("latency", ("erase", "drop"), table=table)
    assert {one.action.what for one in front.candidates} == {"drop"}
    assert front.left_out[0].startswith("5 actions: erase relu, ") and "the times lack" in front.left_out[0]


def test_a_journal_of_another_choice_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text("[]")
    with pytest.raises(BadFile, match="not the journal"):
        chosen("latency", ("drop",), path=tmp_path / "journal.json")
    assert not (tmp_path / "journal.times.json").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"menu": ("burn",)}, UnknownName, "not on the menu"),
        ({"cost": "euros"}, UnknownName, "'euros' is not a cost"),
        ({"swap_to": "pwlu"}, BadValue, "has learned parameters"),
        ({"worst": 0}, BadValue, "`worst` is a divergence"),
        ({"points": 0}, BadValue, "`points` is a number"),
        ({"screen": 0}, BadValue, "`screen` is a number of images"),
        ({"runtime": "paper"}, UnknownName, "not a runtime"),
        ({"batches": []}, BadValue, "No batches"),
        ({"batches": iter([images()])}, BadValue, "iterated more than once"),
        ({"batches": images()}, BadValue, "This is one batch"),
        ({"batches": [torch.rand(2, 5, 8, 8)]}, Exception, "5"),
        ({"report_on": []}, BadValue, "No batches"),
        ({"menu": ("swap",)}, NothingPicked, "Nothing on this menu saves sites in SmallNet"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"batches": batches(), "menu": ("drop",), "cost": "sites"} | options
    with pytest.raises(error, match=message):
        choose(small_net(), **given)
