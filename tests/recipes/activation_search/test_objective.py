"""Objective: equal functions share a result, unfit ones are not trained, and those behind are stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna import Study
from optuna.trial import FrozenTrial

from recipes.activation_search.bookkeeping import SURPLUS, Surplus
from recipes.activation_search.candidate import Report, Score
from recipes.activation_search.objective import REFERENCES, Objective, result_of, train_references
from recipes.activation_search.plan import Plan
from recipes.activation_search.space import SPACES
from surgery.activations.expressions.expression import Expression
from surgery.activations.expressions.notation import parse
from surgery.errors import BadFile, SurgeryError
from tests.recipes.activation_search.oracle import Oracle, accuracy_of, planned


class Failing(Oracle):
    """Cannot read its images, or diverges."""

    def train(self, expression: Expression, seed: int, report: Report) -> Score:
        raise BadFile("It is gone.") if expression.name == "add" else SurgeryError("The loss of step 2 is nan.")


def test_a_training_that_fails_says_why(tmp_path: Path) -> None:
    plan = planned(tmp_path, stopping="none")
    plan = replace(plan, trainer=Failing(**vars(plan.trainer)))
    with plan.opened() as study:
        trials = [tried(plan, study, "x", "tanh", binary) for binary in ("add", "mul")]
    assert [result_of(trial)["rejected"] for trial in trials] == [
        "fails: It is gone.", "diverges: The loss of step 2 is nan."
    ]  # fmt: skip


def tried(plan: Plan, study: Study, unary_1: str, unary_2: str, binary: str) -> FrozenTrial:
    """The trial of one core."""
    study.enqueue_trial({"unary_1": unary_1, "unary_2": unary_2, "binary_1": binary})
    study.optimize(Objective(plan), n_trials=1, catch=(Surplus,))
    return study.get_trials()[-1]


@pytest.mark.slow
def test_what_becomes_of_candidates(tmp_path: Path) -> None:
    plan = planned(tmp_path, SPACES["one-core"], trials=6, seeds=2, engine="evolution", stopping="halving")
    worst = min(("sin", "cos", "tanh", "erf", "atan"), key=lambda name: accuracy_of(parse(f"add(x, {name}(x))")))
    with plan.opened() as study:
        trials = [
            tried(plan, study, *core)
            for core in (
                ("x", "sigmoid", "mul"), ("x", "x", "gate"), ("x", "x", "sub"), ("sinh", "exp", "mul"),
                ("x", worst, "add"), ("tanh", "abs", "max"), ("x", "sin", "add"),
            )
        ]  # fmt: skip
        train_references(study, plan)
        train_references(study, plan)
        swish = study.user_attrs[REFERENCES[1]]
    results: list[dict[str, Any]] = [result_of(trial) for trial in trials]
    worth = accuracy_of(parse("mul(x, sigmoid(x))"))
    assert trials[0].value == pytest.approx(worth) and results[0]["accuracy"] == [worth] * 2
    assert results[1] == results[0] | {"same_as": 0} and trials[1].value == trials[0].value
    assert results[2] == {"rejected": "constant"} and results[3] == {"rejected": "explodes"}
    assert results[4]["rejected"] == "stopped after epoch 1", "it is not among the best third"
    assert trials[6].user_attrs == {SURPLUS: True}, "six were asked for"
    assert swish == {"accuracy": [worth] * 2, "reported": [0.5] * 2}
    assert isinstance(plan.trainer, Oracle)
    begun = [function for _, function in plan.trainer.lines()]
    assert begun.count("mul(x, sigmoid(x))") == 2 + 2, "two seeds of the candidate, and of the reference"
    assert begun.count("gate(x, x)") == begun.count("sub(x, x)") == 0
