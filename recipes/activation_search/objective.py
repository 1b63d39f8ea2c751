"""Objective: from a trial to what its function is worth; equal functions share a result, unfit ones are not trained."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from recipes.activation_search.bookkeeping import SURPLUS, Surplus, begin, ordinal
from recipes.activation_search.candidate import Report
from recipes.activation_search.plan import Plan
from surgery.activations.expressions.equality import fingerprint, unfit
from surgery.activations.expressions.expression import Expression
from surgery.activations.expressions.notation import parse
from surgery.errors import SurgeryError, first_line

# Attributes of a trial: its result, a mapping. Written in one go, since a database takes its time.
RESULT = "result"
# In it: the hash of the function; accuracies, one per seed, or why there are none; the trial whose result it is.
FINGERPRINT, ACCURACY, REPORTED, REJECTED, SAME_AS = "fingerprint", "accuracy", "reported", "rejected", "same_as"
REFERENCES = ("relu(x)", "mul(x, sigmoid(x))")


@dataclass(frozen=True, slots=True)
class Objective:
    """Called with a trial, it chooses the function, trains it with every seed, and returns the mean accuracy.

    Raises:
        TrialPruned: the function is unfit, diverges, or is stopped early.
        Surplus: there are enough trials.
    """

    plan: Plan

    def __call__(self, trial: Trial) -> float:
        study, space = trial.study, self.plan.space
        chosen = {slot: trial.suggest_categorical(slot, names) for slot, names in space.slots.items()}
        if ordinal(study.get_trials(deepcopy=False), trial.number) >= self.plan.trials:
            trial.set_user_attr(SURPLUS, True)
            raise Surplus
        expression = space.expression(chosen)
        begin(trial, str(expression))
        if why := unfit(expression):
            raise _ended(trial, {REJECTED: why})
        key = fingerprint(expression, self.plan.trainer.learn)
        if (same := _finished(study, key)) is not None:
            return _shared(trial, same)
        return self._train(trial, expression, key)

    def _train(self, trial: Trial, expression: Expression, key: str) -> float:
        def report(epoch: int, accuracy: float) -> None:
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise _ended(trial, {FINGERPRINT: key, REJECTED: f"stopped after epoch {epoch}"})

        watched = report if self.plan.stopping != "none" else _nothing
        try:
            scores = trained(self.plan, expression, watched)
        except SurgeryError as error:
            raise _ended(trial, {FINGERPRINT: key, REJECTED: _in_words(error)}) from error
        trial.set_user_attr(RESULT, {FINGERPRINT: key} | scores)
        return fmean(scores[ACCURACY])


def trained(plan: Plan, expression: Expression, report: Report) -> dict[str, list[float]]:
    """The accuracies of a function, one per seed; `report` is told of the first training."""
    scores = [
        plan.trainer.train(expression, plan.seed + number, _nothing if number else report)
        for number in range(plan.seeds)
    ]
    return {ACCURACY: [score.accuracy for score in scores], REPORTED: [score.reported for score in scores]}


def train_references(study: Study, plan: Plan) -> None:
    """Train ReLU and Swish like the candidates, unless the study has their results."""
    for text in REFERENCES:
        if text not in study.user_attrs:
            study.set_user_attr(text, trained(plan, parse(text), _nothing))


def result_of(trial: FrozenTrial) -> dict[str, Any]:
    """The result of a trial; empty if it has none."""
    return dict(trial.user_attrs.get(RESULT, {}))


def _finished(study: Study, key: str) -> FrozenTrial | None:
    """The first finished trial of an equal function."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return next((trial for trial in ended if result_of(trial).get(FINGERPRINT) == key), None)


def _shared(trial: Trial, same: FrozenTrial) -> float:
    """The result of a trial of an equal function."""
    result = {SAME_AS: same.number} | result_of(same)
    if same.value is None or REJECTED in result:
        raise _ended(trial, result)
    trial.set_user_attr(RESULT, result)
    return same.value


def _in_words(error: SurgeryError) -> str:
    """Why a training failed: the loss is the one reason that has no error of its own."""
    return f"{'diverges' if type(error) is SurgeryError else 'fails'}: {first_line(error)}"


def _ended(trial: Trial, result: dict[str, Any]) -> TrialPruned:
    """The end of a trial without an accuracy."""
    trial.set_user_attr(RESULT, result)
    return TrialPruned(result[REJECTED])


def _nothing(epoch: int, accuracy: float) -> None:
    """Report to nobody."""
