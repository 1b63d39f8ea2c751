"""Measuring the table: every function on a target; what was measured of the others stays."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from surgery.activations.support import Cell, Support, support, support_of
from surgery.deploy import measure
from surgery.errors import UnknownName
from tests.asserts import assert_raises
from tests.surgery.deploy.memory import MEMORY, lacking

ROUNDING: dict[str, Any] = {"fp32": {"abs": 1e-6}, "fp16": {"abs": 2e-3}, "int8": {"abs": 1e-2}}


def test_functions_are_measured_in_every_layout_and_precision() -> None:
    cells = list(measure.measured(lacking("gelu"), ["gelu", "identity", "prelu", "sigmoid"]))
    kinds = [(cell.function, cell.layout, cell.precision) for cell in cells]
    assert kinds == [
        ("gelu", "image", "fp32"), ("gelu", "image", "fp16"), ("prelu", "image", "fp32"), ("prelu", "image", "fp16"),
        ("prelu", "tokens", "fp32"), ("prelu", "tokens", "fp16"), ("sigmoid", "image", "fp32"),
        ("sigmoid", "image", "fp16"),
    ]  # fmt: skip
    assert [cell.verdict for cell in cells[:2]] == ["fails", "fails"]
    assert all(cell.error < {"fp32": 1e-6, "fp16": 1e-3}[cell.precision] for cell in cells[2:])


def test_a_target_measured_anew_replaces_its_cells_alone() -> None:
    old = Cell("gelu", "ncnn", "fp32", "image", "fails", (), None, "")
    other = Cell("relu", "tvm", "fp32", "image", "one operator", ("relu",), 0.0, "")
    new = Cell("gelu", "onnxruntime", "fp32", "image", "one operator", ("Gelu",), 0.0, "")
    target = next(target for target in measure.TARGETS.values() if target.name == "onnxruntime")
    found = measure.with_cells(Support((old, other), {"ncnn": "x", "tvm": "y"}), target, (new,))
    assert found.cells == (new, old, other)  # by function, then as targets are listed
    assert found.measured["onnxruntime"].startswith("onnxruntime ") and found.measured["ncnn"] == "x"


def test_functions_measured_anew_replace_their_cells_alone() -> None:
    cells = tuple(Cell(name, "ncnn", "fp32", "image", "fails", (), None, "") for name in ("gelu", "prelu"))
    new = Cell("prelu", "ncnn", "fp32", "image", "one operator", ("PReLU",), 0.0, "")
    found = measure.with_cells(Support(cells, {"ncnn": "x"}), measure.TARGETS["ncnn"], (new,))
    assert found.cells == (cells[0], new)


def test_eight_bits_stay_where_the_quantiser_is_missing() -> None:
    old = [Cell("prelu", "ncnn", precision, "image", "fails", (), None, "") for precision in ("fp32", "int8")]
    new = Cell("prelu", "ncnn", "fp32", "image", "one operator", ("PReLU",), 0.0, "")
    target = replace(measure.TARGETS["ncnn"], quantizer=("torch",))
    found = measure.with_cells(Support(tuple(old), {"ncnn": "x"}), target, (new,))
    assert found.cells == (new, old[1]) and "torch 2" in found.measured["ncnn"]
    found = measure.with_cells(found, target, (replace(old[1], problem="new"),))
    assert found.cells == (new, replace(old[1], problem="new"))
    assert found.measured["ncnn"].count(f"torch {torch.__version__.partition('+')[0]}") == 2


def test_the_command_writes_after_each_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []
    monkeypatch.setitem(measure.TARGETS, "memory", MEMORY)
    monkeypatch.setattr(measure, "write_text", lambda file, text: written.append(text))
    measure.main(["--function", "relu", "memory"])
    [text] = written
    cell = support_of(json.loads(text)).cell("relu", "memory")
    assert cell is not None and cell.operators == ("relu.default",)
    assert capsys.readouterr().out.splitlines()[0] == "memory  relu  fp32  image: relu.default"
    assert_raises(UnknownName, lambda: measure.main(["ncm"]), "ncnn")


@pytest.mark.runtimes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", ["relu6", "leaky_relu", "gelu_tanh", "prelu"])
@pytest.mark.parametrize("kind", measure.TARGETS)
def test_the_table_is_what_is_measured_today(kind: str, function: str) -> None:
    """If it fails, a runtime or an export has changed: measure the target again."""
    target = measure.TARGETS[kind]
    if not target.installed():
        pytest.skip(f"{kind} is not installed")
    today = {(cell.precision, cell.layout): cell for cell in measure.measured(target, [function])}
    table = {
        (cell.precision, cell.layout): cell
        for cell in support().matching(target=kind, function=function)
        if cell.precision != "int8" or target.quantizes()
    }
    assert {key: (cell.verdict, cell.operators) for key, cell in today.items()} == {
        key: (cell.verdict, cell.operators) for key, cell in table.items()
    }
    for (precision, layout), cell in today.items():
        assert cell.error == pytest.approx(table[precision, layout].error, **ROUNDING[precision])


def test_the_inputs_reach_far_and_near() -> None:
    x = measure._inputs((2, 8, 8, 8))
    assert x.min() == -30 and x.max() == 30 and (x.abs() < 1).float().mean() > 0.3
