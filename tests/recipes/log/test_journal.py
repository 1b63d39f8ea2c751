"""The journal: rows, progress bar and trackers, in the first process only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from recipes.log import journal as module
from recipes.log.csv_log import LOG, Log, Row
from recipes.log.journal import Journal
from surgery import BadFile, BadValue, UnknownName
from tests.asserts import assert_raises
from tests.recipes.log.journals import Terminal, clock, trained


class Taken:
    """A tracker that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def begin(self, number: int) -> None:
        self.calls.append(("begin", number))

    def row(self, number: int, phase: str, numbers: Mapping[str, float]) -> None:
        self.calls.append((number, phase, dict(numbers)))

    def close(self) -> None:
        self.calls.append(("close",))


def epochs_of(folder: Path) -> list[tuple[str, int]]:
    return [(row.phase, row.epoch) for row in Log(folder / LOG).rows()]


# Rows


def test_it_says_where_a_training_resumes(tmp_path: Path) -> None:
    said: list[str] = []
    journal = Journal(tmp_path, say=said.append)
    trained(journal, "fit", 3)
    assert len(said) == 3
    said.clear()
    journal.begin("fit", 12, 5, epoch=8)
    journal.begin("fit", 12, 5, epoch=8, step=2)
    assert said == ["fit: resuming at epoch 9 of 12", "fit: resuming at epoch 9 of 12, step 2"]


def test_every_epoch_is_a_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    trained(journal, "fit", 2)
    journal.begin("round 1", 1, 3)
    journal.epoch({"loss": 0.5, "living": 0.8})
    journal.close()
    rows = Log(tmp_path / LOG).rows()
    assert [(row.phase, row.epoch, row.loss, row.top1, row.lr, row.living) for row in rows] == [
        ("fit", 0, 0.0, 0.5, 0.1, None),
        ("fit", 1, 1.0, 0.5, 0.1, None),
        ("round 1", 0, 0.5, None, None, 0.8),
    ]
    assert rows[0].images_s and rows[2].images_s is None


@pytest.mark.parametrize("killed", range(5))
def test_a_run_that_was_killed_and_goes_on_has_every_row_once(tmp_path: Path, killed: int) -> None:
    wanted = [("fit", k) for k in range(4)] + [("round 1", k) for k in range(3)]
    trained(Journal(tmp_path), "fit", 4)
    trained(Journal(tmp_path), "round 1", killed)  # killed without a close, after so many epochs
    for start in range(min(killed, 3) + 1):  # its last checkpoint may be older
        trained(Journal(tmp_path), "round 1", 3, start=start)
        assert epochs_of(tmp_path) == wanted


def test_it_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    trained(Journal(tmp_path), "fit", 3)
    journal = Journal(tmp_path)
    journal.begin("fit", 3, 2, epoch=1, step=1)
    journal.step(1.0, 8)
    journal.epoch({"loss": 7.0})
    assert epochs_of(tmp_path) == [("fit", 0), ("fit", 1)]
    assert Log(tmp_path / LOG).rows()[1].loss == 7.0


def test_speed_is_that_of_training_without_testing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch)
    journal = Journal(tmp_path)
    journal.begin("fit", 2, 2)
    for _ in range(2):
        for _ in range(2):
            move(0.25)
            journal.step(None, 10)
        move(100.0)  # testing
        journal.epoch({})
    assert [row.images_s for row in Log(tmp_path / LOG).rows()] == [40.0, 40.0]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None)
    trained(journal, "fit", 2)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_log_stops_it_before_anything_has_begun(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("epoch,train_loss\n0,1\n")
    journal = Journal(tmp_path)
    assert_raises(BadFile, lambda: journal.begin("fit", 1, 1), LOG)
    assert_raises(BadValue, lambda: journal.epoch({}), "begin")


@pytest.mark.parametrize("name", ["", "two\nlines", "a\ttab"])
def test_a_phase_is_one_printable_line(tmp_path: Path, name: str) -> None:
    assert_raises(BadValue, lambda: Journal(tmp_path).begin(name, 1, 1), "printable")
    assert not (tmp_path / LOG).exists()


def test_a_training_begins_first() -> None:
    assert_raises(BadValue, lambda: Journal(None).step(1.0, 8), "begin")
    assert_raises(BadValue, lambda: Journal(None).epoch({}), "begin")


def test_an_unknown_number_is_refused_and_leaves_no_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("fit", 1, 1)
    assert_raises(BadValue, lambda: journal.epoch({"los": 1.0}), "los", "loss")
    journal.epoch({"loss": 1.0})
    assert Log(tmp_path / LOG).rows() == (Row("fit", 0, 1.0),)


# The bar, and the lines


# Trackers


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    entry = Taken()
    monkeypatch.setattr(module, "tracker", lambda name, folder: entry)
    return entry


def test_trackers_get_the_rows_numbered_through_all_phases(tmp_path: Path, taken: Taken) -> None:
    journal = Journal(tmp_path, trackers=("tensorboard",))
    for phase in ("fit", "round 1"):
        journal.begin(phase, 2, 1)
        journal.epoch({"loss": 1.0})
        journal.epoch({"loss": 0.5})
    journal.close()
    assert taken.calls == [
        ("begin", 0), (0, "fit", {"loss": 1.0}), (1, "fit", {"loss": 0.5}),
        ("begin", 2), (2, "round 1", {"loss": 1.0}), (3, "round 1", {"loss": 0.5}), ("close",),
    ]  # fmt: skip


def test_trackers_are_told_where_a_resumed_run_goes_on(tmp_path: Path, taken: Taken) -> None:
    trained(Journal(tmp_path), "fit", 3)
    trained(Journal(tmp_path), "round 1", 3)
    Journal(tmp_path, trackers=("tensorboard",)).begin("round 1", 3, 2, epoch=1)
    assert taken.calls == [("begin", 4)]


def test_an_unknown_tracker_is_refused_at_once(tmp_path: Path) -> None:
    assert_raises(UnknownName, lambda: Journal(tmp_path, trackers=("tensorbord",)), "tensorbord", "tensorboard")
    assert list(tmp_path.iterdir()) == []


# Several processes


def test_another_process_writes_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Taken
) -> None:
    shown, said = Terminal(), []
    monkeypatch.setattr(sys, "stderr", shown)
    place(monkeypatch, 1)
    journal = Journal(tmp_path, trackers=("tensorboard",), say=said.append)
    quiet = Journal(tmp_path, quiet=True, say=said.append)
    for network in (journal, quiet):
        trained(network, "fit", 2)
        network.close()
    assert (list(tmp_path.iterdir()), shown.getvalue(), said, taken.calls) == ([], "", [], [])


def test_the_first_process_of_several_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, 0)
    trained(Journal(tmp_path), "fit", 2)
    assert epochs_of(tmp_path) == [("fit", 0), ("fit", 1)]


def place(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
