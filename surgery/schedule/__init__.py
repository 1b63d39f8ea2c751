"""Schedule: what changes in an edited model during training, its initialisation and its parameter groups."""
