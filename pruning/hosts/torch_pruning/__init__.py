"""Torch-Pruning: remove channels, and update the optimiser, the masks and the history of the model accordingly.

Example::

    pruner = torch_pruning.pruner.BasePruner(model, images, importance, ignored_layers=[model.fc, *ignored(model)])
    survivors = step(pruner, optimizer, images)     # channels are removed; the optimiser has the new parameters
    masks = survivors.masks(masks)                  # earlier masks now fit the smaller model
    model.train()                                   # Torch-Pruning leaves it in eval mode

The order is fixed: the structural step, outside `held`; then masks, and `ActivateWhilePruning.begin_round()`, on the
new parameters. Create EMA copies again.
"""

from pruning.hosts.torch_pruning.importance import DeadNeuronImportance
from pruning.hosts.torch_pruning.prune_step import ignored, soft, step
from pruning.hosts.torch_pruning.survivors import Survivors

__all__ = ["DeadNeuronImportance", "Survivors", "ignored", "soft", "step"]
