"""The table of functions and targets: it prints, is filtered, and is read back as it was written."""

from __future__ import annotations

import json

import surgery
from surgery.activations.support import Cell, Support, support_of
from surgery.errors import BadValue, UnknownName
from tests.asserts import assert_raises

CELLS = (
    Cell("gelu", "ncnn", "fp32", "image", "one operator", ("GELU",), 1e-6, ""),
    Cell("gelu", "executorch", "fp32", "image", "wrong", ("XNNPACK",), 4.7e-4, ""),
    Cell("swish", "ncnn", "fp32", "image", "fails", (), None, "no movedim"),
    Cell("swish", "executorch", "fp32", "image", "decomposed", ("a", "b", "c", "d", "e"), 0.0, ""),
)
TABLE = Support(CELLS, {"ncnn": "ncnn 1, 2026-11-28", "executorch": "executorch 1, 2026-11-28"})


def test_it_prints_functions_by_targets() -> None:
    assert str(TABLE).splitlines() == [
        "function  precision  layout  ncnn   executorch",
        "gelu      fp32       image   GELU   XNNPACK, wrong by 0.00047",
        "swish     fp32       image   fails  5 operators",
        "ncnn: ncnn 1, 2026-11-28",
        "executorch: executorch 1, 2026-11-28",
    ]
    assert "<table>" in TABLE._repr_html_() and repr(TABLE) == "<Support: 4 cells of 2 targets>"


def test_cells_are_found_and_told_in_full() -> None:
    found = TABLE.cell("swish", "ncnn")
    assert found is not None and found.details == "fails: no movedim"
    assert TABLE.cell("swish", "tvm") is None
    assert [cell.function for cell in TABLE.where(verdict="wrong").cells] == ["gelu"]
    assert TABLE.cells[1].details == "XNNPACK, wrong by 0.00047" and TABLE.cells[3].details == "a + b + c + d + e"
    assert TABLE.lines_of("swish") == ["ncnn: fails", "executorch: 5 operators"]


def test_facts_that_do_not_exist_are_refused() -> None:
    assert_raises(BadValue, lambda: TABLE.where(targt="ncnn"), "'targt' is not a fact of a cell", "target")
    assert_raises(UnknownName, lambda: TABLE.where(target="nccn"), "No cell has the target 'nccn'", "ncnn, executorch")
    assert_raises(UnknownName, lambda: TABLE.where(function="swihs"), "swish")
    assert_raises(UnknownName, lambda: TABLE.where(verdict="failed"), "fails")


def test_what_exists_may_have_no_cells() -> None:
    """A table that was filtered before still knows its names, and the verdicts and precisions are a closed list."""
    ncnn = TABLE.where(target="ncnn")
    assert ncnn.where(target="executorch").cells == ncnn.where(verdict="wrong").cells == ()
    assert TABLE.where(precision="int8").cells == TABLE.where(layout="tokens").cells == ()
    assert TABLE.lines_of("of the user's own") == []


def test_a_few_operators_are_named_where_there_is_room() -> None:
    cell = Cell("silu", "onnxruntime", "int8", "image", "in float", ("Dequantize", "Silu"), 0.01, "")
    assert (str(cell), cell.summary) == ("2 operators, in float", "Dequantize + Silu, in float")
    assert str(Cell("relu", "onnxruntime", "int8", "image", "one operator", (), 0.01, "")) == "nothing"


def test_it_is_read_back_as_it_was_written() -> None:
    again = support_of(json.loads(TABLE.to_json()))
    assert again.cells == TABLE.cells and again.measured == TABLE.measured


def test_the_table_of_the_package_is_whole() -> None:
    table = surgery.deploy.table()
    targets = {target.name for target in surgery.deploy.targets()}
    rows = [surgery.activations.row_of(name) for name in surgery.activations.names()]
    wanted = {
        (row.name, target, layout)
        for row in rows if row.role in ("nonlinearity", "gate")
        for target in targets
        for layout in (("image", "tokens") if row.learns else ("image",))
    }  # fmt: skip
    single = table.where(precision="fp32").cells
    assert {(cell.function, cell.target, cell.layout) for cell in single} == wanted and len(single) == len(wanted)
    assert {(cell.function, cell.target) for cell in table.cells} == {(name, target) for name, target, _ in wanted}
    assert set(table.measured) == targets
