"""Rounds: prune, rewind, train, repeated, with checkpoints."""
