"""A factory that was not called is refused wherever a pruner is expected, with the call to write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import nn

import pruning
from pruning.masks.masks import Masks
from pruning.pruners import criteria as scores
from pruning.pruners.factories import check_pruner, is_factory, name_of
from pruning.rounds.round import Round
from surgery.errors import BadValue
from tests.asserts import assert_raises, assert_untouched


def own(round: Round, share: float) -> Masks:
    return round.masks


class Own:
    """A pruner class, which must be instantiated."""

    def __call__(self, round: Round, share: float) -> Masks:
        return round.masks


class Staged:
    """A staged pruner class."""

    def stages(self, alive: int, share: float) -> list[Callable[[Round], Masks]]:
        return [lambda round: round.masks]


def never(*_: object) -> None:
    raise AssertionError("trained")


VERBS: dict[str, Callable[[Any], object]] = {
    "with_ap": lambda pruner: pruning.with_ap(pruner, 0.1),
    "in_stages": lambda pruner: pruning.in_stages(pruner, 0.1),
    "run_rounds": lambda pruner: pruning.run_rounds(nn.Linear(3, 3), never, pruner, 0.2, 1),
    "run_rounds, no training first": lambda pruner: pruning.run_rounds(
        nn.Linear(3, 3), never, pruner, 0.2, 1, train_first=False
    ),
}
FACTORIES: dict[str, Any] = {
    "pruning.global_magnitude()": pruning.global_magnitude,
    "pruning.random_weights()": pruning.random_weights,
    "pruning.snip()": pruning.snip,
    "pruning.n_of_m()": pruning.n_of_m,
    "pruning.lowest(...)": pruning.lowest,
    "pruning.with_ap(...)": pruning.with_ap,
    "pruning.in_stages(...)": pruning.in_stages,
    "pruning.lamp()": partial(pruning.lamp, within=None),
    "Own()": Own,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("call", FACTORIES)
def test_a_factory_is_no_pruner(verb: str, call: str) -> None:
    assert_raises(BadValue, lambda: VERBS[verb](FACTORIES[call]), "not a pruner", f"call it: {call}")


def test_a_model_is_as_it_was() -> None:
    model = nn.Linear(3, 3)
    with assert_untouched(model):
        assert_raises(BadValue, lambda: pruning.run_rounds(model, never, pruning.lamp, 0.2, 1), "pruning.lamp()")


@pytest.mark.parametrize(
    "pruner", [own, Own(), Staged(), pruning.lamp(), pruning.in_stages(own, 0.1), partial(own), lambda round, share: 0]
)
def test_pruners_are_pruners(pruner: Any) -> None:
    check_pruner(pruner)
    assert not is_factory(pruner)


@pytest.mark.parametrize("wrong", [None, 0.5, "magnitude", lambda: None, lambda round: round.masks, Staged])
def test_what_takes_no_round_and_no_share_is_none(wrong: Any) -> None:
    assert_raises(BadValue, lambda: check_pruner(wrong), "not a pruner")


def test_criteria_and_constraints_are_called_first_too() -> None:
    for criterion in (scores.Random, pruning.global_magnitude, pruning.n_of_m):
        assert_raises(
            BadValue, lambda given=criterion: pruning.lowest(given), "criterion", "call it", criterion.__name__
        )  # type: ignore[misc]
    assert_raises(BadValue, lambda: pruning.lowest(lambda: {}), "criterion", "()")  # type: ignore[arg-type, misc]
    assert_raises(BadValue, lambda: pruning.snip(within=pruning.n_of_m), "within", "call it: pruning.n_of_m()")  # type: ignore[arg-type]
    assert_raises(BadValue, lambda: pruning.snip(within=lambda found: found), "within", "(found)")  # type: ignore[arg-type, misc]
    for right in (scores.magnitude, scores.snip, scores.Random(3), lambda round: round.now):
        assert pruning.lowest(right).criterion is right
    assert pruning.snip(within=pruning.n_of_m(2, 4)).within == pruning.n_of_m(2, 4)


def test_the_name_in_messages() -> None:
    assert name_of(pruning.lowest) == "lowest"
    assert name_of(pruning.lamp()) == repr(pruning.lamp())
