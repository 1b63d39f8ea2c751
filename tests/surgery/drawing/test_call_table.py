"""Call table: a row for each call, a column for each fact that any of them has."""

from __future__ import annotations

import surgery
from surgery.drawing.call_table import call_table, is_round
from surgery.drawing.drawing import Drawing
from surgery.drawing.subjects import drawing_of
from tests.models import ResidualNet, SqueezeExciteNet
from tests.surgery.drawing.reading import Element, read


def table_of(drawing: Drawing) -> Element:
    return read("\n".join(call_table(drawing)))


def test_every_call_has_a_row_with_its_facts() -> None:
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    page = table_of(drawing_of(surgery.make_plan(sites, surgery.erase_relu())))
    heads = [head.text for head in page.all(tag="th", scope="col")]
    assert heads == ["site", "function", "why", "place", "call", "object", "input", "fed by", "feeds"]
    times = " \N{MULTIPLICATION SIGN} "
    row = page.one(id="r2")
    assert [cell.text for cell in row.children] == [
        "layer1.0.relu 2/2", "relu, erased", "rule 1", "2 of 2 in layer1.0", "self.relu in BasicBlock", "has 2 calls",
        times.join("2444"), "add", "conv",
    ]  # fmt: skip
    assert row.attributes["data-pick"] == 'site="layer1.0.relu 2/2"'
    assert [one.text for one in page.all(scope="row")] == list(map(str, sites))


def test_facts_that_no_call_has_are_left_out() -> None:
    page = table_of(drawing_of(SqueezeExciteNet(), example=SqueezeExciteNet.example))
    heads = [head.text for head in page.all(tag="th", scope="col")]
    assert "role" in heads and not {"why", "object", "mode"} & set(heads)


def test_values_are_the_last_column() -> None:
    drawing = drawing_of(ResidualNet(), example=ResidualNet.example).with_values({"relu": 0.25}, "KL")
    page = table_of(drawing)
    assert page.all(tag="th", scope="col")[-1].text == "KL"
    assert [page.one(id=f"r{number}").children[-1].text for number in range(2)] == ["0.25", ""]


def test_what_rules_leave_alone_is_round() -> None:
    sites = surgery.find_sites(SqueezeExciteNet(), SqueezeExciteNet.example)
    assert [is_round(site) for site in sites] == [site.role == "gate" for site in sites]
    assert any(map(is_round, sites)) and not all(map(is_round, sites))
