"""Remove weights and keep them removed: masks, pruners, prune-train-rewind rounds, and AP round any pruner.

Uses of `surgery` only its looking. Nothing is exported yet.
"""
