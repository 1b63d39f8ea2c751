"""A network of two layers whose dead units can be counted by hand, and batches for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Two(nn.Module):
    """A convolution of four units and a ReLU; a linear layer of two and a ReLU."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.conv, self.fc, self.activation = nn.Conv2d(1, 4, 1), nn.Linear(4, 2), activation
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0]).view(4, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 1.0, -1.0]))  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv(x))
        return self.activation(self.fc(x.mean((2, 3))))


ONES = [torch.ones(2, 1, 2, 2), torch.tensor([[[[1.0, 0], [0, 0]]]])]
