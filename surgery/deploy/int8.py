"""Int8: what becomes of a function between two convolutions that a target computes in 8 bits."""

from __future__ import annotations

import re

import torch
from torch import nn

from surgery.deploy.comparison import max_error
from surgery.deploy.network import network_of
from surgery.deploy.probe import Probed
from surgery.deploy.target import Ran, Target, quiet
from surgery.deploy.written import written
from surgery.errors import in_full
from surgery.rng import seeded

SIZE = 48  # of one image: of several, some quantisers average the extremes, and clip
TOLERANCE = 0.05  # of the largest output; 8 bits at both ends and twice in between stay near 0.015
_CONVOLUTION = re.compile("conv(?!ert)", re.IGNORECASE)


def probed_int8(function: nn.Module, target: Target, channels: int) -> Probed:
    """Quantise a function between two convolutions, calibrated on what it is run on: what is left of it, and the error.

    The error is that of the outputs, against torch in float32, over the largest of them.
    """
    assert target.quantize is not None and target.load is not None
    with seeded():
        ends = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        image = 2 * torch.randn(1, channels, SIZE, SIZE)
    network = network_of(nn.Sequential(ends[0], function, ends[1]), image)
    try:
        with written(network, target) as made:
            with quiet():
                operators = target.quantize(made.network, made.folder, [[image]])
            [found] = made.loaded()([image])
    except Exception as failure:  # a runtime may raise whatever it likes
        return Probed(problem=in_full(failure))
    between = between_convolutions(operators)
    error = max_error([found], network.outputs) / network.outputs[0].abs().max().item()
    names = tuple(operator.name for operator in between)
    in_float = any(operator.in_float for operator in between)
    return Probed(names, error, tolerance=TOLERANCE, in_float=in_float)


def between_convolutions(operators: tuple[Ran, ...]) -> tuple[Ran, ...]:
    """What stands between the first and the last convolution."""
    places = [place for place, operator in enumerate(operators) if _CONVOLUTION.search(operator.name)]
    between = operators[places[0] + 1 : places[-1]]
    return tuple(operator for operator in between if not _CONVOLUTION.search(operator.name))
