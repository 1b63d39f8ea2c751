"""Small network: what candidates are trained in unless a model is named: a minute of search, and no download."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import Size, nn

MLP = "mlp"
_WIDTH = 64


def mlp(shape: Size, classes: int) -> nn.Module:
    """Two hidden layers of 64 units with batch norms, for images of this shape (N, C, H, W)."""
    sizes = (prod(shape[1:]), _WIDTH, _WIDTH)
    layers: list[nn.Module] = [nn.Flatten()]
    for entering, leaving in pairwise(sizes):
        layers += [nn.Linear(entering, leaving), nn.BatchNorm1d(leaving), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, classes))
