"""Repair: fit affine stand-ins and re-estimate batch norm statistics, without training."""
