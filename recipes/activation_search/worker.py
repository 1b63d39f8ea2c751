"""Worker: tries candidates until there are enough; several share a study, and do again what one that died left."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess

import torch
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from recipes.activation_search.bookkeeping import FUNCTION, Surplus, next_step, repeat_abandoned
from recipes.activation_search.objective import REJECTED, Objective, result_of
from recipes.activation_search.plan import Plan
from surgery.errors import SurgeryError
from surgery.progress import Progress, Say

_PAUSE = 0.5  # seconds between two looks at what others do


def work(plan: Plan, number: int = 0, after: Callable[[FrozenTrial], None] | None = None) -> None:
    """Try candidates until the study has as many as planned, all of them ended; `after` each that this worker tried."""
    objective = Objective(plan)
    callbacks = [] if after is None else [lambda _, trial: after(trial)]
    with plan.opened(number) as study:
        while (step := next_step(study, plan.trials)) != "done":
            if step == "wait":
                time.sleep(_PAUSE)
                repeat_abandoned(study, plan.grace)
            else:
                study.optimize(objective, n_trials=1, catch=(Surplus,), callbacks=callbacks)


def work_in_processes(plan: Plan, count: int, study: Study, say: Say) -> None:
    """Let so many processes work, each with one thread, and say how far they are.

    A process that dies is told of, and the others do its work.

    Raises:
        SurgeryError: all have died; the search can be resumed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work_alone, args=(plan.fresh(), k), name=f"worker {k}") for k in range(count)]
    for process in processes:
        process.start()
    try:
        _watch(processes, plan, study, say)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if next_step(study, plan.trials) != "done":
        raise SurgeryError("All workers have died before the search was over.", try_="--resume to go on with it")


def _work_alone(plan: Plan, number: int) -> None:
    torch.set_num_threads(1)
    with suppress(KeyboardInterrupt):  # the first process tells of it
        work(plan, number)


def _watch(processes: Sequence[BaseProcess], plan: Plan, study: Study, say: Say) -> None:
    told, dead = set[int](), set[str]()
    progress = progress_of(plan, study, say, told)
    working = True
    while working:
        time.sleep(_PAUSE)
        working = any(process.is_alive() for process in processes)
        for trial in ended(study):
            if trial.number not in told:
                told.add(trial.number)
                progress.step(about(trial))
        for process in processes:
            if process.exitcode not in (None, 0) and process.name not in dead:
                dead.add(process.name)
                say(f"{process.name} died with exit code {process.exitcode}; the others go on")


def progress_of(plan: Plan, study: Study, say: Say, told: set[int]) -> Progress:
    """The progress of a search, from what the study has already; the numbers of those trials are put into `told`."""
    progress = Progress(say, "candidate", plan.trials)
    for trial in ended(study):
        told.add(trial.number)
        progress.step(about(trial), known=True)
    return progress


def ended(study: Study) -> list[FrozenTrial]:
    """The trials with a result, or a reason why they have none."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def about(trial: FrozenTrial) -> str:
    """What came of a trial, in a line."""
    why = result_of(trial).get(REJECTED)
    return f"{trial.user_attrs.get(FUNCTION, 'too many')}: {why or format(trial.value or 0.0, '.2%')}"
