"""Rounds: prune, rewind, train, repeatedly, with checkpoints."""
