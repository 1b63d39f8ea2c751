"""Dead neurons: their rates per site, channel and element, on batches or during a training."""
