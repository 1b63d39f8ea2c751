"""Bookkeeping: repeated and surplus trials do not shift the places of the candidates."""

from __future__ import annotations

from datetime import datetime, timedelta

import optuna
from optuna.trial import TrialState, create_trial

from recipes.activation_search.bookkeeping import (
    FUNCTION,
    SURPLUS,
    next_step,
    ordinal,
    repeat_abandoned,
    repeat_failed,
    started,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_a_repeated_trial_has_the_place_of_what_it_repeats() -> None:
    study = optuna.create_study()
    repeats = {"failed_trial": 1, "retry_history": [1]}
    for state, attributes, system in (
        (TrialState.COMPLETE, {}, {}),
        (TrialState.FAIL, {}, {}),
        (TrialState.RUNNING, {}, {}),
        (TrialState.WAITING, {}, repeats),
        (TrialState.FAIL, {SURPLUS: True}, {}),
        (TrialState.RUNNING, {}, {}),
    ):
        value = 1.0 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes, system_attrs=system))
    trials = study.get_trials()
    assert [ordinal(trials, number) for number in (0, 1, 2, 3, 5)] == [0, 1, 2, 1, 3]
    assert started(trials) == 4
    assert next_step(study, 4) == "try", "one is waiting"


def test_a_worker_waits_for_the_others() -> None:
    study = optuna.create_study()
    assert next_step(study, 1) == "try"
    trial = study.ask()
    assert next_step(study, 1) == "wait"
    study.tell(trial, 1.0)
    assert next_step(study, 1) == "done"


def test_what_failed_is_repeated_once() -> None:
    study = optuna.create_study()
    for attributes in ({}, {SURPLUS: True}):
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    for _ in range(2):
        repeat_failed(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]
    assert study.trials[2].system_attrs["failed_trial"] == 0


def test_a_trial_that_never_began_is_abandoned_after_a_while() -> None:
    study = optuna.create_study()
    long_ago = datetime.now() - timedelta(seconds=60)
    for attributes in ({}, {FUNCTION: "tanh(x)"}):
        trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        trial.datetime_start = long_ago
        study.add_trial(trial)
    repeat_abandoned(study, grace=120)
    assert len(study.trials) == 2
    repeat_abandoned(study, grace=30)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING], "one that began gives signs of life"
