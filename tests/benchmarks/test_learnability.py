"""Learnability: students are followed step by step, and the page tells which of them recovered."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies import learnability
from benchmarks.studies.jobs import Jobs, Write


@pytest.mark.slow
def test_students_are_followed_step_by_step(tmp_path: Path) -> None:
    size, study = learnability.Size("tiny", students=24, steps=300, batch=64, seeds=1), learnability.STUDY

    def do(arm: str, seed: int, write: Write) -> None:
        learnability.measure(study.arms[arm], seed, size, "cpu", write)

    jobs = Jobs(tmp_path / "learnability_tiny.csv")
    jobs.carry_out(["same", "cone"], [0], do, "cpu")
    study.write_page(size, jobs)
    same, cone = (jobs.rows()[arm][0] for arm in ("same", "cone"))
    steps = [row.figures["step"] for row in same]
    assert steps[:3] == [0, 1, 2] and steps[-1] == 300 and steps == sorted({*learnability.looks(300), 0})
    assert same[-1].figures["recovered"] == 1.0
    assert learnability.speed(same) == pytest.approx(learnability.expected_speed(study.arms["same"], same), rel=0.3)
    assert cone[-1].figures["angle_11"] == 0.0 and cone[-1].figures["recovered"] < 0.8
    assert "| same | 100 | 100 | 100 |" in (tmp_path / "learnability_tiny.md").read_text(encoding="utf-8")
