"""Distances of one function from those that could take its place, on what it receives."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from surgery.activations import build


class Distances:
    """How far functions of the catalogue, without parameters, are from one function on all inputs that are added."""

    def __init__(self, function: nn.Module, others: Iterable[str]) -> None:
        self._function = function.eval()
        self._others = {name: build(name) for name in others}
        self._squares = dict.fromkeys(self._others, 0.0)
        self._size = 0.0

    @torch.no_grad()
    def add(self, entered: Tensor) -> None:
        """Count this input, too."""
        x = entered.detach().float().cpu()
        y: Tensor = self._function(x.clone())
        for name, other in self._others.items():
            self._squares[name] += (other(x.clone()) - y).square().sum().item()
        self._size += y.square().sum().item()

    @property
    def relative(self) -> dict[str, float]:
        """For each other function the mean square of the difference, over that of the function's own output."""
        return {name: square / (self._size or 1.0) for name, square in self._squares.items()}


def nearest_of(distances: dict[str, float]) -> str:
    """The function that is nearest; "" if there is none."""
    return min(distances, key=lambda name: distances[name], default="")
