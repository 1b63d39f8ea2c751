"""The oracles: a linear map by its definition, and the Jacobian of whatever code computes it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from surgery.merging.maps.linear_map import LinearMap


def apply(made: LinearMap, x: Tensor) -> Tensor:
    """What a map says of an input (N, C, *spatial), by unfolding windows of the padded input."""
    axes = len(made.kernel)
    if not axes:
        return torch.einsum("oi,ni->no", made.regrouped(1).weight, x) + (0 if made.bias is None else made.bias)
    full = made.regrouped(1).expanded()
    sides = [side for low, high in reversed(made.padding) for side in (low, high)]
    mode = "constant" if made.mode == "zeros" else made.mode
    padded = torch.nn.functional.pad(x, sides, mode=mode) if any(sides) else x
    for axis, (size, step) in enumerate(zip(full.kernel, full.stride, strict=True), 2):
        padded = padded.unfold(axis, size, step)
    windows = padded.flatten(2 + axes).movedim(1, -2).flatten(-2)
    result = windows @ full.weight.flatten(1).T
    result = result if made.bias is None else result + made.bias
    return result.movedim(-1, 1)


def matrix_of(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The matrix (outputs, inputs) and the constant (outputs,) of an affine function of a (1, C, *spatial) tensor."""
    constant = function(torch.zeros(shape, dtype=torch.float64))
    pixels = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape[1:])
    return (function(pixels) - constant).flatten(1).T, constant.flatten()
