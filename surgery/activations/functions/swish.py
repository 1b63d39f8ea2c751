"""Swish: x times the logistic function of beta x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import wrap

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import behind, shaped
from surgery.activations.input_stats import Elementwise, InputStats, nearest_member
from surgery.activations.recompute import said


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _swish_gradients(grad: Tensor, x: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    gate = torch.sigmoid(beta * x)
    bend = x * gate * (1 - gate)
    return grad * (gate + beta * bend), grad * x * bend


def _swish_exported(x: Tensor, after: int, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(x * shaped(beta, after))


SWISH = Function("swish", _swish, _swish_gradients, _swish_exported)


@wrap  # symbolic traces keep it as one call
def swish(x: Tensor, axis: int, beta: Tensor, recompute: bool = False) -> Tensor:
    """x sigmoid(beta x), channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _swish_exported(x, behind(x, axis), beta)
    return apply(SWISH, x, axis, beta, recompute=recompute)


# Includes SiLU and the quick GELU.
MEMBERS = torch.cat([torch.linspace(0, 20, 101), torch.tensor([1.702])])


class Swish(nn.Module):
    """x sigmoid(beta x): SiLU at beta 1, half the identity at 0, towards ReLU as beta grows.

    `beta` is learned, per channel or shared by all, unless `learn` is False.

    Source: Ramachandran, Zoph and Le 2017, "Searching for activation functions", arXiv 1710.05941, section 4.
    """

    surgery_activation = "swish"
    __constants__ = ("recompute",)
    recompute = False  # see `surgery.swap`

    def __init__(self, channels: int = 1, beta: float = 1.0, *, learn: bool = True, axis: int = 1) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((channels,), float(beta)), requires_grad=learn)
        self.axis = axis

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Become the member nearest to `function`, with beta between 0 and 20."""
        nearest_member(self, self.beta, function, stats, MEMBERS)

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        return swish(input, self.axis, self.beta, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{len(self.beta)}" + said(self.recompute)
