"""Look: find every activation call of a model, and describe what surrounds it."""
