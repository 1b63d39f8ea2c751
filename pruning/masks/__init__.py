"""Masks: which weights are pruned, which can be, and how they stay zero during training."""

from pruning.masks.masks import Masks as Masks
