"""Measuring the table: every function on a target; what was measured of the others stays."""

from __future__ import annotations

from surgery.activations import names, row_of
from surgery.activations.support import Cell, Support
from surgery.deploy import measure
from tests.surgery.deploy.memory import MEMORY, lacking


def test_every_function_is_measured(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    some = ["gelu", "prelu", "sigmoid"]
    monkeypatch.setattr(measure, "names", lambda: some)
    cells = list(measure.measured(lacking("gelu")))
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


def test_the_inputs_reach_far_and_near() -> None:
    x = measure._inputs((2, 8, 8, 8))
    assert x.min() == -30 and x.max() == 30 and (x.abs() < 1).float().mean() > 0.3


def test_learned_functions_are_those_of_the_catalogue() -> None:
    assert sum(bool(row_of(name).learns) for name in names()) >= 8 and MEMORY.half
