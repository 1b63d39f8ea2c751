"""Trackers with stub packages: the rows they get, also from a resumed run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recipes.log.trackers import TRACKERS, Tracker, tracker
from surgery import BadValue, SurgeryError, UnknownName
from tests.asserts import assert_raises


class Writer:
    """A `SummaryWriter` that records its calls."""

    made: list[Writer]

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.points: list[tuple[str, float, int]] = []
        self.flushed = self.closed = 0
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        self.points.append((tag, value, global_step))

    def flush(self) -> None:
        self.flushed = len(self.points)

    def close(self) -> None:
        self.closed += 1


class Run:
    """A run of W&B that records its calls."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.points, self.finished = settings, [], 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    Writer.made = []
    package: Any = ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    return Writer.made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    made: list[Run] = []
    package: Any = ModuleType("wandb")

    def init(**settings: Any) -> Run:
        made.append(Run(**settings))
        return made[-1]

    package.init = init
    monkeypatch.setitem(sys.modules, "wandb", package)
    return made


def log(tracked: Tracker, begin: int) -> None:
    tracked.begin(begin)
    tracked.row(begin, "fit", {"loss": 0.5, "top1": 0.25})


def test_tensorboard_gets_a_point_for_each_number(tmp_path: Path, writers: list[Writer]) -> None:
    tracked = tracker("tensorboard", tmp_path)
    assert writers == []  # nothing is written before the start
    log(tracked, 0)
    tracked.begin(1)
    tracked.row(1, "round 1", {"loss": 0.75})
    tracked.close()
    tracked.close()
    (writer,) = writers
    assert writer.points == [("fit/loss", 0.5, 0), ("fit/top1", 0.25, 0), ("round 1/loss", 0.75, 1)]
    assert (writer.log_dir, writer.purge_step) == (str(tmp_path / "tensorboard"), 0)
    assert (writer.flushed, writer.closed) == (3, 1)


def test_tensorboard_takes_back_what_comes_again(tmp_path: Path, writers: list[Writer]) -> None:
    resumed = tracker("tensorboard", tmp_path)
    log(resumed, 5)
    resumed.begin(3)  # a phase that begins again, in the same process
    resumed.row(3, "fit", {"loss": 1.0})
    assert [writer.purge_step for writer in writers] == [5, 3]
    assert [writer.closed for writer in writers] == [1, 0]


def test_wandb_gets_the_rows_in_one_run(tmp_path: Path, runs: list[Run]) -> None:
    tracked = tracker("wandb", tmp_path)
    assert runs == []
    log(tracked, 0)
    tracked.begin(1)
    tracked.row(1, "round 1", {"loss": 0.75})
    tracked.close()
    tracked.close()
    (run,) = runs
    assert run.points == [(0, {"fit/loss": 0.5, "fit/top1": 0.25}), (1, {"round 1/loss": 0.75})]
    assert run.finished == 1 and run.settings["project"] == "activation-surgery"
    assert run.settings["dir"] == str(tmp_path)


def test_wandb_goes_on_with_the_run_of_the_folder_and_begins_a_new_one_from_the_start(
    tmp_path: Path, runs: list[Run]
) -> None:
    for begin in (0, 4, 0):
        log(tracker("wandb", tmp_path / "new"), begin)
    first, resumed, again = (run.settings["id"] for run in runs)
    assert first and first == resumed != again
    assert {run.settings["resume"] for run in runs} == {"allow"}


def test_wandb_starts_in_a_folder_that_never_had_it(tmp_path: Path, runs: list[Run]) -> None:
    log(tracker("wandb", tmp_path), 4)
    assert runs[0].settings["id"]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_without_its_package_a_tracker_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert_raises(
        SurgeryError, lambda: tracker(name, tmp_path), name, f'pip install "activation-surgery[{name}]"', "installed"
    )


def test_what_is_no_tracker_is_refused_by_name(tmp_path: Path) -> None:
    assert_raises(UnknownName, lambda: tracker("wandv", tmp_path), "'wandv'", "tensorboard, wandb")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_needs_a_folder(name: str, writers: list[Writer], runs: list[Run]) -> None:
    assert_raises(BadValue, lambda: tracker(name, None), name, "folder")
