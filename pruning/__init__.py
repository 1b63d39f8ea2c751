"""Remove weights and keep them removed: masks, pruners, prune-train-rewind rounds, and AP round any pruner.

Cut with a pruner in `run_rounds`, or in a pipeline of your own with `ActivateWhilePruning`; look with `dead_neurons`.
Adapters for other libraries are in `pruning.hosts`.
"""

from pruning import hosts as hosts
from pruning.activate import ActivateWhilePruning as ActivateWhilePruning
from pruning.ap import in_stages as in_stages
from pruning.ap import with_ap as with_ap
from pruning.dead import DeadNeurons as DeadNeurons
from pruning.dead import dead_neurons as dead_neurons
from pruning.dead import dead_units as dead_units
from pruning.masks import Masks as Masks
from pruning.meter import DeadNeuronMeter as DeadNeuronMeter
from pruning.prunable import prunable as prunable
from pruning.pruners import accumulated_movement as accumulated_movement
from pruning.pruners import global_gradient as global_gradient
from pruning.pruners import global_magnitude as global_magnitude
from pruning.pruners import lamp as lamp
from pruning.pruners import layer_magnitude as layer_magnitude
from pruning.pruners import lookahead as lookahead
from pruning.pruners import lowest as lowest
from pruning.pruners import movement as movement
from pruning.pruners import n_of_m as n_of_m
from pruning.pruners import random_weights as random_weights
from pruning.pruners import snip as snip
from pruning.round import Round as Round
from pruning.round import snapshot as snapshot
from pruning.rounds import run_rounds as run_rounds
