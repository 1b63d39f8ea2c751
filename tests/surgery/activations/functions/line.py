"""A fine line of numbers, and derivatives on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 2.0**-10  # a power of two, so that every point is exact


LINE = torch.arange(-8192, 8193, dtype=torch.float64) * STEP


def derivative(function: Callable[[Tensor], Tensor], x: Tensor = LINE) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope
