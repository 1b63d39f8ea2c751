"""Candidates: the functions that could replace a learned one, fitted to it, from the cheapest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations import NPWLU, PWLU, build
from surgery.simplification.family_fits import smelu_beta, swish_beta
from surgery.simplification.line_fits import both_slopes, line, negative_slope, one_negative_slope
from surgery.simplification.operators import OPERATORS, of_pwlu, operators_of
from surgery.simplification.piecewise_fit import pwlu
from surgery.simplification.points import Points

Fit = Callable[[Points], Mapping[str, Tensor]]

# Functions that learn, and how they are fitted.
_FITS: dict[str, Fit] = {
    "affine": line, "swish": swish_beta, "prelu": negative_slope, "frelu": both_slopes, "smelu": smelu_beta,
}  # fmt: skip
_TRIED = ("identity", "relu", "leaky_relu", "relu6", "hardswish", "gelu", "affine", "silu", *list(_FITS)[1:])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A function of the catalogue with parameters of its builder, fitted, as a module for channels on the last axis."""

    make: str
    module: nn.Module
    operators: int
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return in_words(self.make, self.module)


def in_words(name: str, function: nn.Module) -> str:
    """The name of a function, with the number of its intervals if it has some."""
    if not isinstance(function, PWLU | NPWLU):
        return name
    return f"{name}, {function.intervals} interval{'s' if function.intervals != 1 else ''}"


def candidates(
    points: Points, name: str, function: nn.Module, tolerance: float, dtype: torch.dtype
) -> Iterator[Candidate]:
    """What becomes fewer operators than `function`, whatever its error; equal counts in a fixed order.

    Each is fitted when it is asked for. Parameters are rounded to `dtype`, that of the model.
    """
    operators = operators_of(name, function)
    place = list(OPERATORS).index(name) if name in OPERATORS else len(OPERATORS)
    channels = None if points.shared else points.x.shape[1]
    per = {"per": "layer"} if points.shared else {}
    made = partial(_made, channels=channels, dtype=dtype)
    for other in _TRIED:
        if (OPERATORS[other], list(OPERATORS).index(other)) >= (operators, place):
            continue
        if other in _FITS:
            yield made(other, OPERATORS[other], per, _FITS[other](points))
        else:
            settings = {"negative_slope": one_negative_slope(points)} if other == "leaky_relu" else {}
            yield made(other, OPERATORS[other], settings, {})
    present = [(function.left.detach(), function.right.detach())] if isinstance(function, PWLU) else []
    for intervals in count(1):
        if of_pwlu(intervals) >= operators:
            return
        values = pwlu(points, intervals, present, tolerance)
        yield made("pwlu", of_pwlu(intervals), {**per, "intervals": intervals}, values)


def _made(
    make: str,
    operators: int,
    params: Mapping[str, Any],
    values: Mapping[str, Tensor],
    *,
    channels: int | None,
    dtype: torch.dtype,
) -> Candidate:
    module = build(make, channels, axis=-1, **params).requires_grad_(False)
    for name, value in values.items():
        module.get_parameter(name).copy_(value)
    return Candidate(make, module.to(dtype).float(), operators, params)
