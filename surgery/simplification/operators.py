"""Operators: how many each function becomes where a network is deployed, from its exported form."""

from __future__ import annotations

from torch import nn

from surgery.activations import NPWLU, PWLU

# Of their exported forms, as ONNX has them; equal counts from cheap to dear. Some targets have a PReLU of their own.
OPERATORS = {
    "identity": 0, "relu": 1, "leaky_relu": 1, "relu6": 1, "hardswish": 1, "gelu": 1, "affine": 2, "silu": 2,
    "swish": 3, "prelu": 4, "frelu": 4, "smelu": 7, "gsmelu": 12, "rescu": 12,
}  # fmt: skip


def of_pwlu(intervals: int) -> int:
    """The operators of a PWLU: a clip, a product and a sum for each interval, and ten for both ends and the rest."""
    return 10 + 3 * intervals


def of_npwlu(intervals: int) -> int:
    """The operators of an N-PWLU, whose clips are a minimum and a maximum each."""
    return 7 + 4 * intervals


def operators_of(name: str, function: nn.Module) -> int:
    """How many operators a function of this name becomes."""
    if isinstance(function, PWLU):
        return of_pwlu(function.intervals)
    return of_npwlu(function.intervals) if isinstance(function, NPWLU) else OPERATORS[name]
