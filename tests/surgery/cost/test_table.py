"""Latency table: what it says an action saves, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.cost.action import Action
from surgery.cost.conditions import Conditions
from surgery.cost.stopwatch import Timing
from surgery.cost.table import NETWORK, LatencyTable, Row, kept
from surgery.errors import BadFile

ERASE = Action("erase", "a.relu", ("a.relu",), "a", "identity")
AFFINE = Action("affine", "a.relu", ("a.relu",), "a", "affine")
DROP = Action("drop", "a", ("a.relu",), "a")


def filled(path: Path | None = None) -> LatencyTable:
    conditions = Conditions.here("eager", "contiguous", torch.float32, 1, torch.device("cpu"))
    table = LatencyTable("Net", conditions, path=path)
    times = {"erase a.relu": ("erase", 1.5, 1.6), "affine a.relu": ("affine", 1.9, 2.2), "drop a": ("drop", 0.0, 0.0)}
    rows = [
        (kept(NETWORK), Row(NETWORK, "keep", Timing(5.0, 5.5, 9))),
        (kept("a"), Row("a", "keep", Timing(2.0, 2.1, 9))),
    ]
    rows += [(name, Row("a", what, Timing(ms, median, 9))) for name, (what, ms, median) in times.items()]
    table.put(rows)
    return table


def test_an_action_saves_what_its_block_takes_less() -> None:
    table = filled()
    assert table.network.ms == 5.0 and table.saved(ERASE) == 0.5 and table.saved(DROP) == 2.0


def test_places_are_drawn_with_their_times() -> None:
    assert filled().site_values() == ("ms", {"a": 2.0})


def test_nothing_is_saved_where_the_median_says_otherwise() -> None:
    assert filled().saved(AFFINE) == 0.0


def test_what_was_not_timed_is_unknown() -> None:
    assert filled().saved(Action("erase", "b", ("b",), "b", "identity")) is None


def test_rows_are_written_as_they_are_measured(tmp_path: Path) -> None:
    table = filled(tmp_path / "times.json")
    read = LatencyTable.load(tmp_path / "times.json")
    assert read.rows == table.rows and read.conditions == table.conditions and read.model == "Net"


def test_a_table_prints_places_actions_and_ratios() -> None:
    text = str(filled())
    assert text.startswith("5 times of Net; eager, contiguous, float32, batch 1")
    assert "a        erase a.relu   1.5000  1.6000  1.33x" in text and "drop" in text and len(filled()) == 5
    assert filled()._repr_html_().count("<tr>") == 6


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 9}', '{"format": 1, "model": "Net", "conditions": {}, "rows": {}}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(BadFile, match=r"not a latency table|not the conditions"):
        LatencyTable.load(tmp_path / "times.json")
    with pytest.raises(BadFile, match="cannot be read"):
        LatencyTable.load(tmp_path / "none.json")
