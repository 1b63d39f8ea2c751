"""HeLU: a ReLU whose gradient also passes slightly below zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import wrap
from torch.nn import functional as F

from surgery.activations.dispatch import taken_apart
from surgery.errors import BadValue


@wrap  # symbolic traces keep it as one call
def helu(x: Tensor, alpha: float) -> Tensor:
    """max(0, x), whose gradient passes where x > -alpha."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _exported(x, alpha)
    return _exported(x, alpha) if taken_apart() else _HeLU.apply(x, alpha)


def _exported(x: Tensor, alpha: float) -> Tensor:
    passed = torch.where((x <= 0) & (x > -alpha), x, 0.0)
    return F.relu(x) + (passed - passed.detach())


class HeLU(nn.Module):
    """ReLU forward; backward the gradient passes where x > -alpha, so that units near zero do not die.

    In eval mode it is a plain ReLU, forward and backward.

    Source: Kimhi et al. 2024, "Hysteresis activation function for efficient inference", arXiv 2411.10573; alpha 0.05
    is the default of its code.
    """

    surgery_activation = "helu"

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not alpha >= 0:
            raise BadValue("`alpha` must not be negative.", asked=f"alpha={alpha!r}", try_="0 or more")
        self.alpha = float(alpha)

    def forward(self, input: Tensor) -> Tensor:
        """Return max(0, x) of `input`, of any shape, in its dtype and layout."""
        return helu(input, self.alpha) if self.training else F.relu(input)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"alpha={self.alpha}"


class _HeLU(torch.autograd.Function):
    """Saves only x for the backward pass, which is torch's own with another threshold."""

    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:
        return F.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.alpha = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.ops.aten.threshold_backward(grads[0], ctx.saved_tensors[0], -ctx.alpha), None
