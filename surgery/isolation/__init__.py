"""Isolation: run a model's code without side effects, in the model or outside of it."""
