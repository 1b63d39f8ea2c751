"""Dead neurons: their rates per site, channel and element, on batches or during a training."""

from pruning.dead.rates import DeadNeurons as DeadNeurons
