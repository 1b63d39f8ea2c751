"""Formulas: a class is identified by what it computes, not by its name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations.formula_check import computes


class Tanh(nn.Module):
    """GELU by its tanh approximation, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Clipped(nn.Module):
    """GELU that ends at 10."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x).clip(-10, 10)


class Dropped(nn.Module):
    """SiLU, with dropout in training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.silu(x), 0.5, self.training)


class Learned(nn.Module):
    """SiLU as long as its weight is one."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Halves(nn.Module):
    """SiLU of one half times the other: another shape."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return F.silu(first) * second


class Counting(nn.Module):
    """SiLU in place that counts its calls and draws numbers."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(1)
        return F.silu(x, inplace=True)


@pytest.mark.parametrize(
    ("module", "activation", "expected"),
    [
        (Tanh(), "gelu_tanh", True), (Tanh(), "gelu", False), (Tanh(), "quick_gelu", False),
        (Clipped(), "gelu", False), (Dropped(), "silu", False), (Learned(), "silu", False), (Halves(), "silu", False),
        (nn.Conv2d(1, 1, 1, bias=False), "silu", False), (nn.Softmax2d(), "silu", False),
    ],
)  # fmt: skip
def test_numbers_decide(module: nn.Module, activation: str, expected: bool) -> None:
    assert computes(module, activation) is expected


def test_it_is_asked_on_the_processor_without_a_trace() -> None:
    module, state = Counting(), torch.get_rng_state()
    with torch.device("meta"):
        assert computes(module, "silu")
    assert module.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
