"""Int8: what becomes of a function between two convolutions that a target computes in 8 bits."""

from __future__ import annotations

import torch
from torch import nn

from surgery.deploy.comparison import max_error
from surgery.deploy.network import network_of
from surgery.deploy.probe import Probed
from surgery.deploy.target import Target, quiet
from surgery.deploy.written import written
from surgery.errors import in_full
from surgery.rng import seeded

IMAGES, SIZE = 32, 8
TOLERANCE = 0.05  # of the largest output; 8 bits at both ends and twice in between stay near 0.015
_LAYOUT = "Transpose"  # a runtime that moves channels does so once, around all quantised layers
_DEQUANTIZE = "Dequantize"


def probed_int8(function: nn.Module, target: Target, channels: int) -> Probed:
    """Quantise a function between two convolutions, calibrated on what is run: what is left of it, and the error.

    The error is that of the outputs, against torch in float32, over the largest of them.
    """
    assert target.quantize is not None and target.load is not None
    with seeded():
        ends = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        images = 2 * torch.randn(IMAGES, channels, SIZE, SIZE)
    network = network_of(nn.Sequential(ends[0], function, ends[1]), images)
    try:
        with written(network.one_by_one(), target) as made:
            with quiet():
                operators = target.quantize(made.folder, [[image] for image in images.split(1)])
            run = made.loaded()
            found = torch.cat([run([image])[0] for image in images.split(1)])
    except Exception as failure:  # a runtime may raise whatever it likes
        return Probed(problem=in_full(failure))
    between = between_convolutions(operators)
    error = max_error([found], network.outputs) / network.outputs[0].abs().max().item()
    in_float = any(name.startswith(_DEQUANTIZE) for name in between)
    return Probed(between, error, tolerance=TOLERANCE, in_float=in_float)


def between_convolutions(operators: tuple[str, ...]) -> tuple[str, ...]:
    """What stands between the first and the last convolution."""
    places = [place for place, name in enumerate(operators) if "Conv" in name]
    return tuple(name for name in operators[places[0] + 1 : places[-1]] if name != _LAYOUT and "Conv" not in name)
