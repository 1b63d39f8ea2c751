"""Small modules that torch does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Copy(nn.Module):
    """The identity that returns a new tensor, as an out-of-place activation does.

    Handing on the input itself would let a later in-place operation reach whoever else holds it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return a copy of `input`, of any shape."""
        return input.clone()


class Unused(nn.Module):
    """Stands where an activation stood whose calls have all been exchanged. It has no forward: nothing calls it."""


class InPlace(nn.Module):
    """Another activation, its result written over its input."""

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
