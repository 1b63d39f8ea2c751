"""Subjects: what a drawing shows of a model, a plan, a report or two networks."""

from __future__ import annotations

import pytest

import surgery
from surgery.drawing.subjects import drawing_of
from surgery.errors import BadValue
from tests.asserts import assert_raises
from tests.models import ResidualNet, TwoNames
from tests.models.stated import Stated

RULES = [surgery.erase(block="layer1.1"), surgery.drop(block="layer1.0"), surgery.swap("prelu", site="relu")]


def test_a_model_is_drawn_as_it_is() -> None:
    drawing = drawing_of(ResidualNet(), example=ResidualNet.example)
    assert (drawing.title, drawing.before_and_after, drawing.blocks) == ("ResidualNet", False, 2)
    assert drawing.states == {"call": 5}
    assert drawing.input_shape.split() == ["2", "\N{MULTIPLICATION SIGN}", "3", "\N{MULTIPLICATION SIGN}", "8",
                                           "\N{MULTIPLICATION SIGN}", "8"]  # fmt: skip
    assert drawing_of(drawing.sites).cells == drawing.cells


def test_a_report_is_drawn_as_its_plan_with_the_new_parameters() -> None:
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    plan = surgery.make_plan(sites, RULES)
    report = surgery.apply_plan(ResidualNet(), plan)
    planned, done = drawing_of(plan), drawing_of(report)
    assert planned.cells == done.cells and planned.states == {"swapped": 1, "dropped": 2, "erased": 2}
    assert planned.before_and_after and planned.rules == tuple(map(str, RULES)) and planned.notes == ()
    assert done.notes[0] == "1 new parameter: relu.weight"
    notes = {row.path: row.note for stage in done.stages for row in stage.rows}
    assert notes == {"": "", "layer1.0": "dropped", "layer1.1": ""}


def test_an_edited_model_is_drawn_as_it_was_and_as_it_is() -> None:
    edited, report = surgery.transform(ResidualNet(), surgery.erase_relu(), ResidualNet.example)
    drawing = drawing_of(edited, example=ResidualNet.example)
    assert [cell.state for cell in drawing.cells] == [cell.state for cell in drawing_of(report).cells]
    assert drawing.sites.items == report.before.items and drawing.before_and_after
    assert len(surgery.history_of(edited)) == 1, "the model itself stays edited"


def test_the_past_of_an_edited_model_says_what_became_of_blocks() -> None:
    edited, _ = surgery.transform(ResidualNet(), surgery.drop(block="layer1.0"), ResidualNet.example)
    drawing = drawing_of(edited, example=ResidualNet.example)
    assert drawing.states == {"kept": 3, "dropped": 2} and drawing.rules == ("drop(block='layer1.0')",)
    assert {row.path: row.mark for row in drawing.rows if row.mark} == {"layer1.0": "dropped"}
    as_it_is = drawing_of(edited, example=ResidualNet.example, undone=False)
    assert as_it_is.states == {"call": 3} and not as_it_is.before_and_after


def test_two_networks_are_drawn_beside_each_other() -> None:
    edited, report = surgery.transform(ResidualNet(), surgery.erase_relu(), ResidualNet.example)
    drawing = drawing_of(ResidualNet(), edited, ResidualNet.example)
    assert drawing.states == {"kept": 3, "erased": 2}
    assert drawing_of(report.before, report.after).cells == drawing.cells


@pytest.mark.parametrize(("model", "shared"), [(ResidualNet, [0, 2, 2, 2, 2]), (TwoNames, [2, 2])])
def test_calls_of_one_object_are_known(model: type[Stated], shared: list[int]) -> None:
    drawing = drawing_of(model(), example=model.example)
    assert [drawing.shared.get(cell.site, 0) for cell in drawing.cells] == shared


def test_what_cannot_be_drawn() -> None:
    _, report = surgery.transform(ResidualNet(), RULES, ResidualNet.example)
    assert_raises(BadValue, lambda: drawing_of(report, ResidualNet()), "its own network after")
    assert_raises(BadValue, lambda: drawing_of("resnet18"), "not a network", "str")  # type: ignore[arg-type]
