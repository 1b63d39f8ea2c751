"""Engines: each takes up what it found; workers draw differently, and lists are the same for all."""

from __future__ import annotations

import optuna
import pytest
from optuna import Trial

from recipes.activation_search.engines import ENGINES, Engine, Listed, sampler_of
from recipes.activation_search.space import Space
from tests.recipes.activation_search.oracle import SMALL

optuna.logging.set_verbosity(optuna.logging.ERROR)
LARGE = Space("large", cores=2, unary=("x", "tanh", "sigmoid", "sin", "abs"), binary=("add", "mul", "max"))
TARGET = {
    "unary_1": "tanh", "unary_2": "abs", "binary_1": "mul", "unary_3": "sin", "unary_4": "x", "binary_2": "max",
    "inputs": "core, x",
}  # fmt: skip


def tried(engine: Engine, space: Space, trials: int, seed: int, worker: int = 0) -> list[dict[str, str]]:
    """What an engine tries, where a candidate is worth the number of its choices that are the right ones."""
    study = optuna.create_study(direction="maximize", sampler=sampler_of(engine, space, False, seed, worker))

    def objective(trial: Trial) -> float:
        chosen = {slot: trial.suggest_categorical(slot, names) for slot, names in space.slots.items()}
        return sum(chosen[slot] == name for slot, name in TARGET.items() if slot in chosen)

    study.optimize(objective, n_trials=trials)
    return [trial.params for trial in study.trials]


def test_the_list_is_one_for_all_workers() -> None:
    first, second = (sampler_of("exhaustive", SMALL, False, 0, worker) for worker in (0, 1))
    assert isinstance(first, Listed) and isinstance(second, Listed) and first.listed == second.listed
    assert sorted(map(str, first.listed)) == sorted(map(str, SMALL.distinct(False)))
    assert first.listed != SMALL.distinct(False), "in random order"
    assert tried("exhaustive", SMALL, 26, 0) == list(first.listed)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_it_draws_alike_only_for_the_same_seed_and_worker(engine: Engine) -> None:
    assert tried(engine, LARGE, 6, 0) == tried(engine, LARGE, 6, 0)
    assert tried(engine, LARGE, 6, 0) != tried(engine, LARGE, 6, 1)
    assert tried(engine, LARGE, 6, 0) != tried(engine, LARGE, 6, 0, worker=1)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_it_comes_closer_to_what_is_good(engine: Engine) -> None:
    found = [sum(chosen[slot] == TARGET[slot] for slot in TARGET) for chosen in tried(engine, LARGE, 120, 0)]
    assert sum(found[-30:]) / 30 > 4, "random choices have 2.1 right ones"
    assert sum(found[:10]) / 10 < 3 and max(found) >= 6


def test_evolution_does_not_try_the_same_twice() -> None:
    chosen = [tuple(params.items()) for params in tried("evolution", LARGE, 120, 0)]
    assert len(set(chosen)) == len(chosen)
