"""Engines: how the next candidate is picked: each that there is, by ageing evolution, or by TPE."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from recipes.activation_search.bookkeeping import ordinal
from recipes.activation_search.space import Choices, Space

Engine = Literal["exhaustive", "evolution", "tpe"]
ENGINES = get_args(Engine)

_POPULATION, _TOURNAMENT = 32, 8
_TRIES = 50  # to mutate into something that was not tried yet


def sampler_of(engine: Engine, space: Space, learn: bool, seed: int, worker: int = 0) -> BaseSampler:
    """The sampler of an engine. Every worker draws other numbers; what is listed is listed alike for all.

    Raises:
        BadValue: the space is too large for the exhaustive engine.
    """
    if engine == "exhaustive":
        listed = space.distinct(learn)
        random.Random(seed).shuffle(listed)
        return Listed(space, listed)
    drawn = random.Random(f"{seed} {worker}").getrandbits(32)
    return Ageing(space, drawn) if engine == "evolution" else TPESampler(seed=drawn)


class _OverSlots(BaseSampler):
    """A sampler that chooses for all slots of a space at once."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.random = space, random.Random(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All slots."""
        return {slot: CategoricalDistribution(names) for slot, names in self.space.slots.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The choices of the next candidate."""
        return dict(self.choices(study.get_trials(deepcopy=False), trial.number))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> str:
        """A random choice, where the candidate has none."""
        return self.random.choice(self.space.slots[param_name])

    def choices(self, trials: Sequence[FrozenTrial], number: int) -> Choices:
        """The choices of the trial of this number."""
        raise NotImplementedError


class Listed(_OverSlots):
    """Takes the candidates of a list one after another, by whichever worker; without end it is random search."""

    def __init__(self, space: Space, listed: Sequence[Choices]) -> None:
        super().__init__(space)
        self.listed = listed

    def choices(self, trials: Sequence[FrozenTrial], number: int) -> Choices:
        """Those at the place of this trial."""
        place = ordinal(trials, number)
        return self.listed[place] if place < len(self.listed) else {}


class Ageing(_OverSlots):
    """Regularised evolution: the best of a few of the last candidates, with one choice changed.

    The oldest die, not the worst, so that nothing survives by luck.

    Source: Real et al. 2019, "Regularized evolution for image classifier architecture search", arXiv 1802.01548.
    """

    def choices(self, trials: Sequence[FrozenTrial], number: int) -> Choices:
        """Random ones until there is a population."""
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        alive = [trial for trial in ended if self._is_whole(trial.params)][-_POPULATION:]
        tried = {tuple(sorted(trial.params.items())) for trial in trials}
        for _ in range(_TRIES):
            made = self._child(alive) if len(alive) == _POPULATION else self._anything()
            if tuple(sorted(made.items())) not in tried:
                break
        return made

    def _child(self, alive: Sequence[FrozenTrial]) -> dict[str, str]:
        parent = max(self.random.sample(list(alive), _TOURNAMENT), key=_value)
        slot = self.random.choice(list(self.space.slots))
        others = [name for name in self.space.slots[slot] if name != parent.params[slot]]
        return {**parent.params, slot: self.random.choice(others)} if others else dict(parent.params)

    def _anything(self) -> dict[str, str]:
        return {slot: self.random.choice(names) for slot, names in self.space.slots.items()}

    def _is_whole(self, params: Mapping[str, Any]) -> bool:
        return set(params) == set(self.space.slots)


def _value(trial: FrozenTrial) -> float:
    """What a candidate is worth; one that was rejected, or stopped early, nothing."""
    return trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else 0.0
