"""Paddings: the blocks that can be made ready to be merged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import surgery
from surgery.cost.editable import editable_groups
from surgery.cost.paddings import paddings_of
from tests.surgery.budget.networks import images, small_net


def paddings(model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    sites = surgery.find_sites(model, images(2))
    return paddings_of(model, sites, editable_groups(model, sites))


def test_padding_goes_to_the_first_convolution_of_each_block() -> None:
    expected = {f"blocks.{k}": {f"blocks.{k}.conv1": (2, 2), f"blocks.{k}.conv2": (0, 0)} for k in range(2)}
    assert paddings(small_net()) == expected


def test_a_model_without_blocks_has_none() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    assert paddings(Plain()) == {}
