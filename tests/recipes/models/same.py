"""Equal weights."""

from __future__ import annotations

import torch
from torch import nn


def same(model: nn.Module, other: nn.Module, but: tuple[str, ...] = ()) -> bool:
    """Whether all weights are equal, except those named in `but`, which differ in shape."""
    first, second = model.state_dict(), other.state_dict()
    return list(first) == list(second) and all(
        first[name].shape != second[name].shape if name in but else torch.equal(first[name], second[name])
        for name in first
    )
