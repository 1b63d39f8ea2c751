"""Rehearsal: the plan, the trainings and the time of a run, without a trace of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import cli
from recipes.format.recipe import Recipe
from recipes.format.settings import Pruning
from recipes.log.journal import Journal
from recipes.runs.rehearsal import Rehearsal, Stage, rehearse
from surgery import BadValue
from tests.asserts import assert_raises
from tests.recipes.runs.small import FADE, MODEL, SHORT, small_run

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")

FEW = {"train_num_samples": 96, "val_num_samples": 50}
WHOLE = replace(FADE, pruning=Pruning(share=0.2, rounds=2, epochs=3, ap_share=0.02, order="stages"))


@pytest.mark.slow
def test_it_tells_the_trainings_that_a_run_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, int, int]] = []
    begin = Journal.begin

    def listening(self: Journal, phase: str, epochs: int, steps: int, **rest: Any) -> None:
        begun.append((phase, epochs, steps))
        begin(self, phase, epochs, steps, **rest)

    monkeypatch.setattr(Journal, "begin", listening)
    recipe = replace(WHOLE, pruning=replace(WHOLE.pruning or Pruning(), epochs=1))
    small_run(recipe, tmp_path / "out")
    found = rehearse(recipe, MODEL, **FEW, say=lambda _: None)
    assert [(stage.name, stage.epochs, stage.steps) for stage in found.stages] == begun and len(begun) == 7


def test_it_estimates_the_time_of_all_steps_and_tests() -> None:
    stages = (Stage("fit", 2, 3), Stage("final", 1, 3))
    found = Rehearsal("m", "r", "d", None, stages, step_s=0.5, test_s=2.0, memory=3 * 2**30)
    assert found.seconds == 9 * 0.5 + (2 + 3) * 2.0
    assert "about 14 s in all: 500 ms a step, peak memory 3.0 GiB; nothing was written" in str(found)
    assert replace(found, test_s=None).seconds == 4.5


def test_it_shows_the_surgery_and_restores_the_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = rehearse(FADE, MODEL, **FEW, say=lambda _: None)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.report is not None and len(found.report.plan.edits) > 0
    assert str(found).startswith(str(found.report)) and found.step_s > 0 and (found.test_s or 0) > 0
    assert len(found.facts()["edits"]) == len(found.report.plan.edits)


def test_without_a_training_nothing_is_timed() -> None:
    found = rehearse(replace(FADE, finetune=None), MODEL, **FEW, say=lambda _: None)
    assert (found.stages, found.step_s) == ((), 0.0) and "no training" in str(found)


def test_what_a_run_refuses_is_refused() -> None:
    assert_raises(BadValue, lambda: rehearse(Recipe("empty", ()), MODEL), "nothing to do")
    distilled = replace(FADE, finetune=replace(SHORT, distill=True))
    assert_raises(BadValue, lambda: rehearse(distilled, MODEL), "cannot be a teacher")


def test_the_command_line_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["prune", MODEL, "--data", "digits", "--train-num-samples", "96", "--val-num-samples", "50", "--rounds",
             "1", "--epochs", "1", "--output", str(tmp_path / "out"), "--dry-run"]  # fmt: skip
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == ["round 0", "round 1", "final"] and found["edits"] == []
    assert not (tmp_path / "out").exists()
