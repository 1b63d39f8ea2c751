"""Block times: every block and call after every action, once, and from where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.cost import block_times
from surgery.cost.block_times import time_blocks
from surgery.cost.table import LatencyTable
from surgery.errors import BadFile, BadValue, UnknownName
from tests.surgery.budget.networks import images, small_net

MENU = ("erase", "drop")
NAMES = [
    "keep network", "keep blocks.0", "drop blocks.0", "erase blocks.0.relu 1/2", "erase blocks.0.relu 2/2",
    "keep blocks.1", "drop blocks.1", "erase blocks.1.relu 1/2", "erase blocks.1.relu 2/2", "keep relu", "erase relu",
]  # fmt: skip


def test_everything_on_the_menu_is_timed_once() -> None:
    model = small_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = time_blocks(model, images(2), MENU, layout="contiguous", rounds=2)
    assert list(table.rows) == NAMES
    assert all(row.timing.ms > 0 and row.timing.rounds == 2 for row in table if row.what != "drop")
    assert table.rows["drop blocks.0"].timing.ms == 0.0
    assert (table.conditions.layout, table.conditions.batch, table.conditions.dtype) == ("contiguous", 2, "float32")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_merged_block_is_timed_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    run = block_times.running

    def seen(module: Any, arguments: Any, conditions: Any) -> Any:
        timed.append(repr(module))
        return run(module, arguments, conditions)

    monkeypatch.setattr(block_times, "running", seen)
    table = time_blocks(small_net(), images(2), ("merge",), layout="contiguous", rounds=1)
    assert list(table.rows) == ["keep network", "keep blocks.0", "merge blocks.0", "keep blocks.1", "merge blocks.1"]
    assert "kernel_size=(5, 5)" in timed[-1] and timed[-1].count("Conv2d") == 1


def test_blocks_of_the_same_layers_and_shapes_share_their_times() -> None:
    rows = time_blocks(small_net(), images(2), MENU, rounds=2).rows
    assert rows["keep blocks.0"].timing is rows["keep blocks.1"].timing


def test_a_block_that_only_prints_alike_has_its_own_times() -> None:
    model = small_net()
    model.get_submodule("blocks.1").unprinted = 3  # type: ignore[assignment]
    rows = time_blocks(model, images(2), MENU, rounds=2).rows
    assert rows["keep blocks.0"].timing is not rows["keep blocks.1"].timing


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    table = time_blocks(small_net(), images(2), ("drop",), rounds=2, path=path)
    again = time_blocks(small_net(), images(2), MENU, rounds=2, path=path)
    assert set(again.rows) == set(NAMES) and again.rows["keep network"] == table.rows["keep network"]
    assert LatencyTable.load(path).rows == again.rows
    assert time_blocks(small_net(), images(2), MENU, rounds=2, path=path).rows == again.rows


def test_calls_alone_are_timed_on_eager_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_times, "running", lambda *_: lambda: None)  # exporting takes seconds
    table = time_blocks(small_net(), images(2), ("erase",), rounds=1, runtime="onnxruntime")
    assert "erase relu" not in table.rows and table.rows["erase blocks.0.relu 1/2"].timing.ms > 0


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    table = time_blocks(small_net(), images(2), ("drop",), rounds=1, path=path)
    with pytest.raises(BadFile, match=r"was measured for something else(?s:.*)layout channels_last, not contiguous"):
        time_blocks(small_net(), images(2), ("drop",), layout="contiguous", path=path)
    replace(table, model="Other").save(path)
    with pytest.raises(BadFile, match="Other, not SmallNet"):
        time_blocks(small_net(), images(2), ("drop",), path=path)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(BadValue, match="number of rounds"):
        time_blocks(small_net(), images(2), rounds=0)
    with pytest.raises(UnknownName, match="not on the menu"):
        time_blocks(small_net(), images(2), ("burn",))
    with pytest.raises(UnknownName, match="not a runtime"):
        time_blocks(small_net(), images(2), runtime="paper")
