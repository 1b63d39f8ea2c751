"""Repair: affine fits in the place of activations, and new batch norm statistics, without training."""
