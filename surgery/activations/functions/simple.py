"""Simple: small modules that torch lacks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Copy(nn.Module):
    """The identity that returns a new tensor, as an out-of-place activation does.

    Returning the input itself would expose it to later in-place operations.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return a copy of `input`, of any shape."""
        return input.clone()


class Unused(nn.Module):
    """Placeholder for an activation whose calls have all been replaced. It has no forward: it is never called."""


class InPlace(nn.Module):
    """An activation whose output is written over its input."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Overwrite `input` with its activation and return it."""
        return input.copy_(self.activation(input))


class SquaredReLU(nn.Module):
    """max(0, x) squared.

    Source: So et al. 2021, "Primer", section 4.
    """

    surgery_activation = "squared_relu"

    def forward(self, input: Tensor) -> Tensor:
        """Return the squared positive part of `input`, of any shape."""
        return F.relu(input).square()


class QuickGELU(nn.Module):
    """GELU by its logistic approximation, x times sigmoid(1.702 x).

    Source: Hendrycks and Gimpel 2016, section 2.
    """

    surgery_activation = "quick_gelu"

    def forward(self, input: Tensor) -> Tensor:
        """Return the approximate GELU of `input`, of any shape."""
        return input * torch.sigmoid(1.702 * input)
