"""Jobs: most important first, none twice, and finished ones are kept if another fails."""

import math
from pathlib import Path

import pytest

from benchmarks.conditions import processor
from benchmarks.studies.jobs import Jobs, Write

ARMS = ["control", "edited"]


def square(arm: str, seed: int, write: Write) -> None:
    """Write two rows; at module level, so that other processes can import it."""
    for epoch in range(2):
        write({"epoch": epoch, "accuracy": (seed + epoch) ** 2 / 100})


def broken(arm: str, seed: int, write: Write) -> None:
    write({"epoch": 0, "accuracy": 0.5})
    if arm == "edited":
        raise RuntimeError("the edited network does not train")


def test_all_seeds_of_an_arm_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Jobs(tmp_path / "rows.csv").carry_out(ARMS, [0, 1], square, "cpu")
    arms = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert arms[::2] == ["control, seed 0", "control, seed 1", "edited, seed 0", "edited, seed 1"]


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_rows_come_back_with_what_they_were_measured_on(tmp_path: Path, at_once: int) -> None:
    jobs = Jobs(tmp_path / "folder" / "rows.csv")
    jobs.carry_out(ARMS, [0, 3], square, "cpu", at_once)
    rows = jobs.rows()
    assert {arm: sorted(seeds) for arm, seeds in rows.items()} == {"control": [0, 3], "edited": [0, 3]}
    assert [row.figures for row in rows["edited"][3]] == [
        {"epoch": 0, "accuracy": 0.09},
        {"epoch": 1, "accuracy": 0.16},
    ]
    assert {row.processor for seeds in rows.values() for seed in seeds.values() for row in seed} == {processor()}


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Jobs(tmp_path / "rows.csv")
    jobs.carry_out(["control"], [0], square, "cpu")
    before = jobs.rows()["control"][0]
    capsys.readouterr()
    jobs.carry_out(ARMS, [0, 1], square, "cpu")
    arms = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert arms[::2] == ["control, seed 1", "edited, seed 0", "edited, seed 1"]
    assert jobs.rows()["control"][0] == before


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_job_that_fails_leaves_no_rows_and_keeps_those_of_others(tmp_path: Path, at_once: int) -> None:
    jobs = Jobs(tmp_path / "rows.csv")
    with pytest.raises(ExceptionGroup, match="2 of 4 jobs failed") as raised:
        jobs.carry_out(["edited", "control"], [0, 1], broken, "cpu", at_once)
    assert {arm: sorted(seeds) for arm, seeds in jobs.rows().items()} == {"control": [0, 1]}
    assert sorted(exception.__notes__[-1] for exception in raised.value.exceptions) == [
        "in the job edited, seed 0",
        "in the job edited, seed 1",
    ]


def test_rows_with_other_figures_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "rows.csv")
    jobs.carry_out(["control"], [0], square, "cpu")
    before = jobs.file.read_bytes()
    with pytest.raises(ValueError, match="has the columns"):
        jobs.carry_out(["edited"], [0], lambda arm, seed, write: write({"epoch": 0, "loss": 1.0}), "cpu")
    assert jobs.file.read_bytes() == before


def test_what_was_not_measured_stays_unknown(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "rows.csv")
    jobs.carry_out(["control"], [0], lambda arm, seed, write: write({"epoch": 0, "loss": math.nan}), "cpu")
    assert math.isnan(jobs.rows()["control"][0][0].figures["loss"])


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert Jobs(tmp_path / "none.csv").rows() == {}
