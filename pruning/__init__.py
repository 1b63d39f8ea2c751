"""Pruning: masks, pruners, prune-train-rewind rounds, and AP (Activate-while-Pruning) around any pruner.

Prune with `run_rounds`, or in your own pipeline with `ActivateWhilePruning`; measure with `dead_neurons`.
Adapters for other libraries are in `pruning.hosts`.
"""

from pruning import hosts
from pruning.ap.ap import in_stages, with_ap
from pruning.ap.own_loop import ActivateWhilePruning
from pruning.dead.meter import DeadNeuronMeter
from pruning.dead.rates import DeadNeurons, dead_neurons
from pruning.dead.units import dead_units
from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from pruning.pruners.pruners import (
    accumulated_movement,
    global_gradient,
    global_magnitude,
    lamp,
    layer_magnitude,
    lookahead,
    lowest,
    movement,
    n_of_m,
    random_weights,
    snip,
)
from pruning.rounds.compensation import compensate
from pruning.rounds.round import Round, snapshot
from pruning.rounds.rounds import run_rounds

__all__ = [
    "ActivateWhilePruning",
    "DeadNeuronMeter",
    "DeadNeurons",
    "Masks",
    "Round",
    "accumulated_movement",
    "compensate",
    "dead_neurons",
    "dead_units",
    "global_gradient",
    "global_magnitude",
    "hosts",
    "in_stages",
    "lamp",
    "layer_magnitude",
    "lookahead",
    "lowest",
    "movement",
    "n_of_m",
    "prunable",
    "random_weights",
    "run_rounds",
    "snapshot",
    "snip",
    "with_ap",
]


def __dir__() -> list[str]:
    return __all__
