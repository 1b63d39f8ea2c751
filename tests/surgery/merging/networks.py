"""Networks whose linear groups are stated, and the sites that were erased in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.look.example import Example
from surgery.merging.forward import Forward, forward_of
from surgery.merging.operations import Values
from surgery.merging.units import Unit, units_of


class Plain(nn.Module):
    """Two convolutions with norms, an activation behind each."""

    def __init__(self, padding: int = 0, between: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.act1 = between or nn.ReLU(inplace=True)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(6, 4, 3, padding=padding), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.fc(self.act2(self.bn2(self.conv2(x))).mean((2, 3)))


class NormAct(nn.BatchNorm2d):
    """A norm with its activation, as in timm."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                                     0.1, self.eps)  # fmt: skip
        return self.act(self.drop(x))


IMAGES = torch.randn(2, 3, 11, 12)


def seen(model: nn.Module, x: Tensor = IMAGES) -> tuple[Forward, list[Unit]]:
    """One forward of a model, and its units, with shapes alone."""
    forward = forward_of(model, Example.of(x, model))
    return forward, units_of(model, forward, Values(model, shapes_only=True))
