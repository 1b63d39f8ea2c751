"""Torch-Pruning as a host: channels are removed, and optimiser, masks and the history of the model follow.

Example::

    pruner = torch_pruning.pruner.BasePruner(model, images, importance, ignored_layers=[model.fc, *ignored(model)])
    survivors = step(pruner, optimizer, images)     # the channels are gone; the optimiser moves what is left
    masks = survivors.masks(masks)                  # masks from before fit the smaller model
    model.train()                                   # Torch-Pruning leaves it in eval mode

The order is fixed: the structural step, outside of `held`; then masks, and `ActivateWhilePruning.begin_round()`, on the
parameters that are new. An EMA copy is made anew.
"""

from pruning.hosts.torch_pruning.importance import DeadNeuronImportance
from pruning.hosts.torch_pruning.prune_step import ignored, soft, step
from pruning.hosts.torch_pruning.survivors import Survivors

__all__ = ["DeadNeuronImportance", "Survivors", "ignored", "soft", "step"]
