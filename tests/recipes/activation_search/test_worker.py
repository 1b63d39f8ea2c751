"""Worker: together they try every candidate once, and a killed one loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from recipes.activation_search.plan import Plan
from recipes.activation_search.space import Space
from recipes.activation_search.worker import work, work_in_processes
from surgery.errors import SurgeryError
from tests.asserts import assert_raises
from tests.processes import Started
from tests.recipes.activation_search import postgres
from tests.recipes.activation_search.oracle import Oracle, accuracy_of, planned, work_quietly


def assert_each_is_there_once(plan: Plan) -> None:
    """The study has the right result of every distinct function, once."""
    with plan.opened() as study:
        trials = study.get_trials()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    expected = {
        str(plan.space.expression(chosen)): plan.space.expression(chosen) for chosen in plan.space.distinct(False)
    }
    assert Counter(trial.user_attrs["function"] for trial in complete) == Counter(expected.keys())
    assert all(trial.value == accuracy_of(expected[trial.user_attrs["function"]]) for trial in complete)
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


def trainings(plan: Plan) -> Counter[int]:
    """How many functions were trained how often."""
    assert isinstance(plan.trainer, Oracle)
    return Counter(Counter(function for _, function in plan.trainer.lines()).values())


@pytest.mark.slow
def test_one_worker_tries_all(tmp_path: Path) -> None:
    plan = planned(tmp_path, Space("tiny", unary=("x", "tanh"), binary=("add", "mul")))
    told: list[int] = []
    work(plan, after=lambda trial: told.append(trial.number))
    assert_each_is_there_once(plan)
    assert plan.trials == len(told) == 6 and trainings(plan) == {1: 6}
    work(plan)  # nothing is left
    assert trainings(plan) == {1: 6}


@contextmanager
def sqlite() -> Iterator[None]:
    yield None


@pytest.mark.slow
@pytest.mark.parametrize("database", [sqlite, postgres.server], ids=["SQLite", "PostgreSQL"])
def test_of_two_workers_one_is_killed(tmp_path: Path, database: object) -> None:
    with database() as url:  # type: ignore[operator]
        changed = {} if url is None else {"url": url}
        plan = planned(tmp_path, seconds=0.1, **changed)
        with plan.opened():  # its tables are made by one
            pass
        workers = [
            Started(work_quietly, planned(tmp_path, seconds=0.1, dies_at=dies_at, **changed), number)
            for number, dies_at in enumerate((4, 0))
        ]
        killed, other = (worker.ended() for worker in workers)
        assert killed.returncode == -9, "it was killed in its fourth training"
        assert other.returncode == 0, other.stderr
        assert_each_is_there_once(plan)
        assert trainings(plan) == {1: 25, 2: 1}, "only what the killed one had begun was begun again"


@pytest.mark.slow
def test_a_search_whose_workers_all_died_goes_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, seconds=0.05, dies_at=3)
    lines: list[str] = []
    with plan.opened() as study:
        assert_raises(SurgeryError, lambda: work_in_processes(plan, 2, study, lines.append), "--resume")
    assert sum("died with exit code -9" in line for line in lines) == 2
    work(planned(tmp_path))
    assert_each_is_there_once(plan)
    assert trainings(plan) == {1: 24, 2: 2}
