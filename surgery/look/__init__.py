"""Look: every activation call of a model, with what surrounds it."""
