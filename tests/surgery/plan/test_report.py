"""Reports: what was done, found by looking again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import surgery
from surgery.plan.report import Report, check_outcome
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import assert_raises
from tests.models import picture


def report_of(model: nn.Module, *rules: Rule) -> Report:
    return surgery.transform(model, rules, picture())[1]


def test_a_report_of_erasing() -> None:
    assert str(report_of(models.ResidualNet(), surgery.erase_relu())).splitlines() == [
        "2 of 5 relu calls erased; 3 calls kept",
        "  site               block     before      after",
        "  layer1.0.relu 2/2  layer1.0  relu    ->  identity",
        "  layer1.1.relu 2/2  layer1.1  relu    ->  identity",
        "  kept: 2 (not the last of its module)",
        "  kept: 1 (in the stem)",
        "  parameters unchanged",
    ]


def test_a_report_names_new_parameters() -> None:
    report = report_of(models.BottleneckNet(), surgery.erase_relu(), surgery.swap("prelu", position=1))
    assert report.added == ("body.0.act1.weight", "body.1.act1.weight")
    lines = str(report).splitlines()
    assert lines[:2] == ["2 of 6 relu calls replaced by prelu", "2 of 6 relu calls erased; 2 calls kept"]
    assert lines[-1] == "  2 new parameters: body.0.act1.weight, body.1.act1.weight"


def test_a_report_as_json() -> None:
    read = json.loads(report_of(models.ResidualNet(), surgery.swap("prelu", block="layer1.1", init=0.5)).to_json())
    assert (read["model"], read["calls_before"], read["calls_after"]) == ("ResidualNet", 5, 5)
    assert read["rules"] == [str(surgery.swap("prelu", block="layer1.1", init=0.5))]
    assert read["edits"][0] == {
        "site": "layer1.1.relu 1/2", "block": "layer1.1", "was": "relu", "is": "prelu", "params": {"init": 0.5},
        "fade": False,
    }  # fmt: skip
    assert [row["calls"] for row in read["kept"]] == [3] and len(read["edits"]) == 2
    assert read["new_parameters"] == ["layer1.1.relu_0.weight", "layer1.1.relu_1.weight"]


def test_a_report_names_parameters_that_are_gone() -> None:
    report = report_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)), surgery.erase())
    assert report.removed == ("1.weight",)
    assert str(report).splitlines()[-1] == "  1 removed parameter: 1.weight"


def test_a_report_holds_the_sites_found_after_by_looking_again() -> None:
    model = models.ResidualNet()
    edited, report = surgery.transform(model, surgery.erase_relu(), picture())
    assert list(report.before) == list(surgery.find_sites(model, picture()))
    assert list(report.after) == list(surgery.find_sites(edited, picture()))
    assert report.plan.rules == (surgery.erase_relu(),)


@pytest.mark.parametrize("optional", [{"optional": True}, {"expect": 0}], ids=str)
def test_a_report_of_nothing(optional: dict[str, int]) -> None:
    report = report_of(models.MobileNet(), surgery.erase_relu(**optional))  # type: ignore[arg-type]
    assert report.added == report.removed == ()
    assert str(report).splitlines() == [
        "no edits; 2 calls kept",
        "  kept: 2 (module already has a linear output)",
        "  parameters unchanged",
    ]


def test_an_outcome_is_checked_call_by_call() -> None:
    model = models.BottleneckNet()
    sites = surgery.find_sites(model, picture())
    plan = surgery.make_plan(sites, surgery.erase_relu())
    done = surgery.transform(model, surgery.erase_relu(), picture())[1].after
    check_outcome(plan, done)
    for wrong in (sites, done[:-1], surgery.transform(model, surgery.swap("gelu"), picture())[1].after):
        assert_raises(surgery.NotProved, lambda wrong=wrong: check_outcome(plan, wrong), "4 calls")


def test_a_parameter_replaced_under_its_own_name_is_new_and_gone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4))
    _, report = surgery.transform(model, surgery.swap("prelu"), picture())
    assert (report.added, report.removed) == (("1.weight",), ("1.weight",))


def test_the_calls_kept_are_said_once() -> None:
    report = report_of(models.BottleneckNet(), surgery.erase_relu(), surgery.swap("prelu", position=1))
    assert str(report).count("calls kept") == 1


def test_a_report_of_lines_and_of_scores() -> None:
    report = report_of(models.ResidualNet(), surgery.erase_relu(stand_in="affine"), surgery.rectify_scores())
    lines = str(report).splitlines()
    assert lines[0] == "2 of 5 relu calls erased, with an affine stand-in"
    assert lines[1] == "rectified_scores added behind the classifier; 3 calls kept"
    assert [line.split() for line in lines[2:6]] == [
        ["site", "block", "before", "after"],
        ["layer1.0.relu", "2/2", "layer1.0", "relu", "->", "affine"],
        ["layer1.1.relu", "2/2", "layer1.1", "relu", "->", "affine"],
        ["fc.scores", "-", "-", "->", "rectified_scores"],
    ]
    assert not [line for line in lines if "initialised" in line]
    assert len(report.added) == 4


def test_a_report_says_how_new_functions_begin_once_for_each_pair() -> None:
    report = report_of(models.BottleneckNet(), surgery.swap("prelu", position=1), surgery.swap("gelu", position=2))
    lines = [line.strip() for line in str(report).splitlines() if "initialised" in line]
    assert lines[0] == "prelu initialised to match relu: exact"
    worst = max((edit.site for edit in report.plan.edits if edit.make == "gelu"), key=lambda site: report.far[site])
    assert lines[1] == f"gelu initialised to match relu: maximum error {report.far[worst]:.2g} ({worst})"
    assert len(lines) == 2 and set(report.far) == {edit.site for edit in report.plan.edits}


def test_what_is_kept_has_no_beginning() -> None:
    report = report_of(models.BottleneckNet(), surgery.swap("gelu", position=1))
    assert {site.position for site in report.far} == {1}
    assert report_of(models.BottleneckNet(), surgery.erase()).far == {}


class WithMore(surgery.Recipe):
    """A recipe with more than surgery."""

    left_out = ("pruning", "fine-tuning")


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ((), None),
        (("pruning",), "  left out: pruning (surgery run does it)"),
        (("pruning", "fine-tuning"), "  left out: pruning, fine-tuning (surgery run does them)"),
    ],
)
def test_what_a_recipe_asks_for_beyond_surgery_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], line: str | None
) -> None:
    monkeypatch.setattr(WithMore, "left_out", parts)
    recipe = WithMore("mine", (surgery.erase_relu(),))
    model = models.ResidualNet()
    _, report = surgery.transform(model, recipe, picture())
    plan = surgery.make_plan(surgery.find_sites(model, picture()), recipe)
    assert report.plan.left_out == plan.left_out == parts
    for text in (str(report), str(plan)):
        assert [line for line in text.splitlines() if "left out" in line] == ([line] if line else [])
    assert str(report).splitlines()[-1] == (line or "  parameters unchanged")


def test_a_recipe_without_rules_says_what_it_holds() -> None:
    recipe = WithMore("mine", ())
    assert_raises(surgery.BadValue, lambda: surgery.transform(models.ResidualNet(), recipe), "No rule", "left out: pr")


def test_many_parameters_are_one_line() -> None:
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Conv2d(4, 4, 1), nn.ReLU())))
    _, report = surgery.transform(model, surgery.swap("frelu"), torch.rand(2, 4, 3, 3))
    assert len(report.added) == 40
    assert str(report).splitlines()[-1] == ("  40 new parameters: 1.positive, 1.negative, 3.positive, ... (37 more)")


def test_kept_calls_of_another_kind_are_counted_by_their_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Conv2d(4, 4, 1), nn.GELU(), nn.MaxPool2d(2))
    _, report = surgery.transform(model, surgery.erase_relu(optional=True), picture())
    assert str(report).splitlines() == ["no edits; 2 calls kept", "  kept: 2 are gelu", "  parameters unchanged"]


def test_a_notebook_shows_the_rows_that_are_printed() -> None:
    model = models.ResidualNet()
    _, report = surgery.transform(model, surgery.erase_relu(), picture())
    page = report._repr_html_()
    assert page.startswith("<div><p>2 of 5 relu calls erased; 3 calls kept</p><table>")
    assert "<th>before</th><th></th><th>after</th>" in page
    assert "<tr><td>layer1.0.relu 2/2</td><td>layer1.0</td><td>relu</td><td>-&gt;</td><td>identity</td></tr>" in page
    kept = "kept: 2 (not the last of its module)<br>kept: 1 (in the stem)<br>parameters unchanged"
    assert page.endswith(f"{kept}<br>as a drawing: surgery.draw(report, &quot;network.html&quot;)</p></div>")
    assert page.count("<tr>") == 1 + len(report.plan.edits)


def test_a_report_says_in_a_line_what_it_is() -> None:
    _, report = surgery.transform(models.ResidualNet(), surgery.erase_relu(), picture())
    assert repr(report) == "<Report: 2 of 5 relu calls erased; 3 calls kept>"
    assert repr(report.plan) == "<Plan: 2 of 5 activation calls of ResidualNet will be edited>"
    assert repr(report.before) == "<Sites: 5 activation calls in ResidualNet>"
