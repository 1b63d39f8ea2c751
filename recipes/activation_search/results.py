"""Results: what a study has to tell: the front of the functions that were trained, and what became of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna import Study

from recipes.activation_search.bookkeeping import FUNCTION
from recipes.activation_search.front import Accuracies, Front, front_of
from recipes.activation_search.objective import ACCURACY, REFERENCES, REJECTED, REPORTED, SAME_AS, result_of
from recipes.activation_search.worker import ended


def front_of_study(study: Study) -> Front:
    """The front of all candidates that ended, and of the references that were trained."""
    ends = [(trial.user_attrs[FUNCTION], result_of(trial)) for trial in ended(study)]
    own = [(function, result) for function, result in ends if SAME_AS not in result]
    trained = {function: result for function, result in own if REJECTED not in result}
    references = {text: study.user_attrs[text] for text in REFERENCES if text in study.user_attrs}
    counts = {"candidates": len(ends), "trained": len(trained)}
    counts |= Counter(_kind(result[REJECTED]) for _, result in own if REJECTED in result)
    if len(own) < len(ends):
        counts["equal to another"] = len(ends) - len(own)
    return front_of(_accuracies(trained), _accuracies(references), counts)


def _kind(reason: str) -> str:
    """A reason without its particulars: "stopped after epoch 3" is "stopped"."""
    return re.split(":| after", reason)[0]


def _accuracies(results: Mapping[str, Mapping[str, Any]]) -> Accuracies:
    return {function: (result[ACCURACY], result[REPORTED]) for function, result in results.items()}
