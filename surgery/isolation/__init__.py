"""Isolation: a look at a model runs its code and leaves no trace, in the model or outside of it."""
