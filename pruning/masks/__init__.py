"""Masks: which weights are pruned, which can be, and how they stay pruned."""

from pruning.masks.masks import Masks as Masks
