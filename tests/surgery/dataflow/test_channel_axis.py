"""The channel axis after each operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery


class Behind(nn.Module):
    """A ReLU behind a function of 3 channels of 5 by 4 pixels and a weight (7, 3)."""

    def __init__(self, made: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.weight, self.act = nn.Conv2d(3, 3, 1), nn.Parameter(torch.rand(7, 3)), nn.ReLU()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.made(self.conv(x), self.weight)).sum()


CHANNELS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, int]] = {
    "weights in front": (lambda x, w: w @ x.flatten(2), 7, 1),
    "weights behind": (lambda x, w: x.flatten(2).mT @ w.t(), 7, 2),
    "transposed": (lambda x, w: x.flatten(2).mT, 3, 2),
    "all reversed": (lambda x, w: x.T, 3, 2),
    "transposed twice": (lambda x, w: x.flatten(2).mT.adjoint(), 3, 1),
    "stacked in front": (lambda x, w: torch.stack([x, x]), 3, 2),
    "stacked behind": (lambda x, w: torch.stack([x, x], 2), 3, 1),
    "stacked at the end": (lambda x, w: torch.stack([x, x], dim=-1), 3, 1),
}


@pytest.mark.parametrize("way", CHANNELS)
def test_the_channels_are_found_again(way: str) -> None:
    made, channels, axis = CHANNELS[way]
    [site] = surgery.find_sites(Behind(made), torch.rand(2, 3, 5, 4))
    assert (site.channels, site.channel_axis) == (channels, axis)
