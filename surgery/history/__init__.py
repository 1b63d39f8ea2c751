"""History: the steps that made an edited model, in memory and as data."""
