"""Picture: a grid with the calls in order, which the keyboard reaches and a screen reader names."""

from __future__ import annotations

import pytest

import surgery
from surgery.drawing.drawing import Drawing
from surgery.drawing.page import page
from surgery.drawing.picture import label
from surgery.drawing.stages import Row, Stage
from surgery.drawing.subjects import drawing_of
from tests.models import ResidualNet
from tests.surgery.drawing.reading import Element, read

SITES = surgery.find_sites(ResidualNet(), ResidualNet.example)
RULES = [
    surgery.erase(block="layer1.1", position=2),
    surgery.drop(block="layer1.0"),
    surgery.swap("prelu", remaining=True, block="layer1.1", fade=True),
]
PLAN = surgery.make_plan(SITES, RULES)


def drawn(drawing: Drawing) -> Element:
    return read(page(drawing))


def test_columns_are_stages_and_rows_are_blocks() -> None:
    grid = drawn(drawing_of(SITES)).one(role="grid")
    stages = grid.all(role="rowgroup")
    names = [grid.one(id=stage.attributes["aria-labelledby"]) for stage in stages]
    assert [name.own for name in names] == [["stem "], ["layer1 "]]
    rows = [[header.text for header in stage.all(role="rowheader")] for stage in stages]
    assert rows == [["ResidualNet"], ["0", "1"]]
    assert [len(row.all(role="gridcell")) for row in grid.all(role="row")] == [1, 2, 2]


def test_cells_are_named_by_the_table() -> None:
    root = drawn(drawing_of(PLAN))
    cells = root.all(role="gridcell")
    named = [" ".join(root.one(id=key).text for key in cell.attributes["aria-labelledby"].split()) for cell in cells]
    assert named[:2] == ["relu relu, kept"] * 2
    assert named[-2:] == ["layer1.1.relu 2/2 relu, erased", "layer1.1.relu 1/2 relu, swapped for prelu, fading"]
    assert {cell.attributes["data-n"] for cell in cells} == set("01234")


def test_states_stand_beside_each_other() -> None:
    rows = drawn(drawing_of(PLAN)).all(role="row")
    before = [[cell.classes - {"c"} for cell in row.one(kind="before").children] for row in rows]
    after = [[cell.classes - {"c"} for cell in row.one(kind="after").children] for row in rows]
    dropped, swapped, erased = {"dropped"}, {"swapped", "fading"}, {"erased"}
    hatched = {"hatched"}
    assert before == [[{"kept"}], [dropped | hatched] * 2, [swapped | hatched, erased | hatched]]
    assert after == [[{"kept"}], [dropped | {"gap"}] * 2, [swapped, erased | {"gap"}]]
    assert [row.classes for row in rows] == [{"row"}, {"row", "dropped"}, {"row"}]
    assert rows[2].one(kind="after").text == "prelu"


def test_one_cell_is_reached_by_tab_at_most_and_all_by_arrows() -> None:
    stops = drawn(drawing_of(PLAN)).one(role="grid").all(tabindex="-1")
    assert [stop.attributes["role"] for stop in stops].count("gridcell") == 7 and len(stops) == 10


def test_blocks_say_what_they_are_and_select_their_calls() -> None:
    _, first, second = drawn(drawing_of(PLAN)).all(role="rowheader")
    assert first.attributes["data-about"] == "BasicBlock; dropped; can be dropped"
    assert second.attributes["data-about"] == "BasicBlock; cannot be dropped: its shortcut is not the identity"
    assert second.attributes["data-pick"] == 'block="layer1.1"' and second.attributes["aria-label"] == "layer1.1"


def test_values_are_bars() -> None:
    drawing = drawing_of(PLAN).with_values({"layer1.0": 4.0, "relu": 1.0}, "ms")
    root = drawn(drawing)
    bars = {
        cell.text: cell.attributes["style"]
        for cell in root.one(role="grid").all()
        if "--v" in cell.attributes.get("style", "")
    }
    assert bars == {"relu": "--v:0.25", "0": "--v:1"}
    assert "BasicBlock; dropped; can be dropped; ms: 4" in [
        header.attributes["data-about"] for header in root.all(role="rowheader")
    ]


@pytest.mark.parametrize(
    ("path", "is_block", "stage", "expected"),
    [
        ("layer1.0", True, "layer1", "0"), ("features#2", True, "features", "#2"), ("Mixed_5b", True, "", "Mixed_5b"),
        ("features.transition1", False, "features.denseblock1", "features.transition1"), ("", False, "stem", "Net"),
    ],
)  # fmt: skip
def test_a_row_is_labelled_by_the_rest_of_its_path(path: str, is_block: bool, stage: str, expected: str) -> None:
    assert label(Row(path, "Net", (), is_block), Stage(stage, "", ())) == expected
