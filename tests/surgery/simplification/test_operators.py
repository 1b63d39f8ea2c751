"""Operators: the numbers are those of the exported forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgery.activations import build, only
from surgery.simplification.operators import OPERATORS, operators_of

IN_ONNX = {"silu": 2, "prelu": 4}  # where torch has one operation


class Counting(TorchDispatchMode):
    """Counts the operations whose result has the shape of the input; those on parameters alone are constants."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.count += isinstance(made, torch.Tensor) and tuple(made.shape) == self.shape
        return made


def counted(function: nn.Module) -> int:
    shape = (2, 3, 5, 7)
    x = torch.randn(shape)
    with torch.no_grad(), only("exported"), Counting(shape) as mode:
        function.eval()(x)
    return mode.count


@pytest.mark.parametrize("name", OPERATORS)
def test_every_function_becomes_so_many_operators(name: str) -> None:
    function = build(name, 3)
    assert operators_of(name, function) == IN_ONNX.get(name, counted(function))


@pytest.mark.parametrize("name", ["pwlu", "npwlu"])
@pytest.mark.parametrize("intervals", [1, 2, 7])
def test_intervals_count(name: str, intervals: int) -> None:
    function = build(name, 3, intervals=intervals)
    assert operators_of(name, function) == counted(function)
