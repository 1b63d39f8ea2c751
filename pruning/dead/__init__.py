"""Dead neurons: their rates per site, channel and element, on batches or during training."""

from pruning.dead.rates import DeadNeurons as DeadNeurons
