"""Two files that are replaced together: an interrupted save leaves the old or the new folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.files import half_of, write_text
from surgery.serialization.model_folder import STEPS, WEIGHTS, read_steps, steps_file
from tests.asserts import assert_bit_equal, assert_raises
from tests.models import ResidualNet, picture, randomise

CALLS = 6  # to the disk in one save: two halves, two names, and the folder after each


def edited(*rules: Any) -> torch.nn.Module:
    model = randomise(ResidualNet())
    surgery.transform_(model, rules, picture())
    return model


OLD, NEW = edited(surgery.erase_relu()), edited(surgery.swap("prelu", block="layer1.*"))


class Killed(BaseException):
    """As if by the operating system: nothing is cleaned up afterwards."""


def break_off(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> list[str]:
    """Let the `number`-th call that reaches the disk fail; returns the calls as they come."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                if isinstance(error, Killed):
                    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
                raise error
            return real(*args)

        return call

    for name in ("replace", "fsync"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return calls


def test_a_save_reaches_the_disk_as_often_as_the_tests_here_assume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = break_off(monkeypatch, 0, Killed())
    surgery.save(NEW, tmp_path)
    assert calls == ["fsync", "fsync", "replace", "fsync", "replace", "fsync"] and len(calls) == CALLS
    assert {path.name for path in tmp_path.iterdir()} == {STEPS, WEIGHTS}


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("no space left on device"), Killed()], ids=["full", "killed"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_whenever_a_save_breaks_off_the_folder_is_whole(
    number: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surgery.save(OLD, tmp_path)
    with monkeypatch.context() as patch:
        break_off(patch, number, error)
        assert_raises(type(error), lambda: surgery.save(NEW, tmp_path))
    loaded = surgery.load(tmp_path, ResidualNet())
    expected = OLD if number <= 3 else NEW
    assert list(loaded.state_dict()) == list(expected.state_dict())
    assert_bit_equal(loaded.state_dict().values(), expected.state_dict().values(), "weights")
    # And the next one finds nothing in its way, even if it breaks off before anything took its place.
    with monkeypatch.context() as patch:
        break_off(patch, 1 if expected is OLD else 4, error)
        assert_raises(type(error), lambda: surgery.save(OLD, tmp_path))
    surgery.load(tmp_path, ResidualNet())
    surgery.save(NEW, tmp_path)
    assert {STEPS, WEIGHTS} == {path.name for path in tmp_path.iterdir()}
    assert len(read_steps(tmp_path)["steps"][0]["data"]["edits"]) == 4


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_a_first_save_that_is_killed_leaves_nothing_or_all(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_off(patch, number, Killed())
        assert_raises(Killed, lambda: surgery.save(NEW, tmp_path))
    if number <= 3:
        assert_raises(surgery.BadFile, lambda: surgery.load(tmp_path, ResidualNet()), "has no")
    else:
        assert len(surgery.history_of(surgery.load(tmp_path, ResidualNet()))) == 1


def test_steps_left_under_another_name_count_only_where_they_belong(tmp_path: Path) -> None:
    surgery.save(OLD, tmp_path / "old")
    surgery.save(NEW, tmp_path / "new")
    left = half_of(tmp_path / "old" / STEPS)
    left.write_bytes((tmp_path / "new" / STEPS).read_bytes())
    assert steps_file(tmp_path / "old") == tmp_path / "old" / STEPS
    (tmp_path / "new" / STEPS).rename(half_of(tmp_path / "new" / STEPS))
    assert steps_file(tmp_path / "new") == half_of(tmp_path / "new" / STEPS)
    assert read_steps(tmp_path / "new")["kind"] == "ResidualNet"


def test_a_file_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surgery.save(OLD, tmp_path)
    monkeypatch.setattr("surgery.serialization.model_folder.LONGEST", 100)
    assert_raises(surgery.BadFile, lambda: surgery.load(tmp_path, ResidualNet()), "too long", "at most 100")


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "result.json"
    write_text(file, "old")
    with monkeypatch.context() as patch:
        break_off(patch, 1, OSError("no space left on device"))
        assert_raises(OSError, lambda: write_text(file, json.dumps({"a": "ä"})))
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    write_text(file, json.dumps({"a": "ä"}, ensure_ascii=False))
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "ä"}
