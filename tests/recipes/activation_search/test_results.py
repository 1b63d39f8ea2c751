"""Results: every candidate is counted once, and only what was trained is on the front."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from recipes.activation_search.results import front_of_study


def ended(function: str, value: float | None, **result: Any) -> optuna.trial.FrozenTrial:
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    return create_trial(state=state, value=value, user_attrs={"function": function, "result": result})


def test_what_became_of_the_candidates() -> None:
    study = optuna.create_study(direction="maximize")
    for trial in (
        ended("tanh(x)", 0.8, fingerprint="a", accuracy=[0.7, 0.9], reported=[0.6, 0.7]),
        ended("neg(tanh(neg(x)))", 0.8, fingerprint="a", accuracy=[0.7, 0.9], reported=[0.6, 0.7], same_as=0),
        ended("sub(x, x)", None, rejected="constant"),
        ended("sin(x)", None, fingerprint="b", rejected="stopped after epoch 3"),
        ended("cos(x)", None, fingerprint="c", rejected="stopped after epoch 1"),
        ended("exp(x)", None, fingerprint="d", rejected="diverges: The loss of step 9 is nan."),
    ):
        study.add_trial(trial)
    study.set_user_attr("relu(x)", {"accuracy": [0.9, 0.9], "reported": [0.8, 0.8]})
    front = front_of_study(study)
    assert front.counts == {
        "candidates": 6, "trained": 1, "constant": 1, "stopped": 2, "diverges": 1, "equal to another": 1
    }  # fmt: skip
    assert [(found.function, found.reference) for found in front.found] == [("relu(x)", True), ("tanh(x)", False)]
