"""Bookkeeping: which trials of a study count, so that none is lost and none is done twice, whoever is killed.

A trial that is started is a candidate, unless it repeats one whose worker died, or is one too many. All are numbered
by the database in the order they were started; the place of a candidate follows from that, whoever asks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from optuna import Study, Trial
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

FUNCTION, SURPLUS = "function", "surplus"  # attributes of a trial
_FIRST, _HISTORY = "failed_trial", "retry_history"  # those that Optuna gives a repeated one


class Surplus(Exception):
    """A trial that was started although there were enough."""


def ordinal(trials: Sequence[FrozenTrial], number: int) -> int:
    """The place, from 0, of a trial among the candidates; a repeated one has the place of what it repeats."""
    first = int(trials[number].system_attrs.get(_FIRST, number))
    return first - sum(_is_extra(trial) for trial in trials[:first])


def started(trials: Sequence[FrozenTrial]) -> int:
    """The number of candidates that were ever started."""
    return sum(not _is_extra(trial) for trial in trials)


def next_step(study: Study, total: int) -> Literal["try", "wait", "done"]:
    """What a worker does next: try a candidate, wait for those that others try, since they may die, or nothing."""
    trials = study.get_trials(deepcopy=False)
    states = {trial.state for trial in trials}
    if TrialState.WAITING in states or started(trials) < total:
        return "try"
    return "wait" if TrialState.RUNNING in states else "done"


def begin(trial: Trial, function: str) -> None:
    """Give the first sign of life, then note the function that is tried.

    Optuna gives it from a thread, whenever that comes to it, and never misses a worker that died before.
    """
    record = getattr(trial.storage, "record_heartbeat", None)
    if record is not None:
        record(trial._trial_id)
    trial.set_user_attr(FUNCTION, function)


def repeat_abandoned(study: Study, grace: float) -> None:
    """Queue the trials again of workers that gave no sign of life for so many seconds."""
    with _quiet():
        fail_stale_trials(study)
        # Those that died before they began.
        early = datetime.now() - timedelta(seconds=grace)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if FUNCTION not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start < early:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                _repeat(study, trial)


def repeat_failed(study: Study) -> None:
    """Queue the trials again that failed and were never repeated, because the search was interrupted."""
    trials = study.get_trials()
    repeated = {number for trial in trials for number in trial.system_attrs.get(_HISTORY, ())}
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.number not in repeated and SURPLUS not in trial.user_attrs:
            _repeat(study, trial)


def _repeat(study: Study, trial: FrozenTrial) -> None:
    with _quiet():
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _is_extra(trial: FrozenTrial) -> bool:
    return _FIRST in trial.system_attrs or SURPLUS in trial.user_attrs


def _quiet() -> warnings.catch_warnings:
    """Inside, Optuna does not say that heartbeats are experimental."""
    return warnings.catch_warnings(action="ignore", category=ExperimentalWarning)
