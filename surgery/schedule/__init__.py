"""Schedule: what changes in an edited model over a training, and the parameters that train."""
