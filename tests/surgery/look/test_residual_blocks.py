"""Residual blocks: which basic modules add what they compute to their own input, and why others do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests import models


class Block(nn.Module):
    """A norm, a linear layer and a shortcut, joined in one of several ways."""

    def __init__(self, join: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.linear, self.act, self.behind = nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x, self.act(self.linear(self.norm(x))))


class Net(nn.Module):
    def __init__(self, join: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 4), Block(join), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x)))


NO_IDENTITY = "its shortcut is not the identity"


@pytest.mark.parametrize(
    ("join", "reason"),
    [
        (lambda block, x, y: x + y, None),
        (lambda block, x, y: y.add_(x), None),
        (lambda block, x, y: torch.relu(y + x), None),
        (lambda block, x, y: x + (x + y), None),
        (lambda block, x, y: (x.reshape(-1, 2, 2) + y.reshape(-1, 2, 2)).reshape(-1, 4), None),
        (lambda block, x, y: x - y, NO_IDENTITY),
        (lambda block, x, y: block.behind(x) + y, NO_IDENTITY),
        (lambda block, x, y: block.norm(x) + y, NO_IDENTITY),
        (lambda block, x, y: block.behind(x + y), "it computes more than an activation behind its sum"),
        (lambda block, x, y: torch.cat([x, y], 1)[:, :4], "it joins no paths by a sum"),
    ],
    ids=["add", "add_", "relu", "twice", "reshaped", "minus", "projected", "normed", "more", "concat"],
)
def test_only_a_block_that_adds_to_its_input_can_be_dropped(
    join: Callable[[nn.Module, Tensor, Tensor], Tensor], reason: str | None
) -> None:
    (block,) = surgery.find_sites(Net(join), torch.randn(3, 4)).blocks
    assert (str(block), block.block, block.locked) == ("block", "block", reason)


def test_every_basic_module_is_listed_in_order() -> None:
    sites = surgery.find_sites(models.ResidualNet(), models.ResidualNet.example)
    assert [(str(block), block.block_kind) for block in sites.blocks] == [
        ("layer1.0", "BasicBlock"),
        ("layer1.1", "BasicBlock"),
    ]
    assert [block.locked for block in sites.blocks] == [None, NO_IDENTITY]


def test_a_module_of_the_same_class_without_a_sum_is_a_block_too() -> None:
    class Downsampling(Net):
        def __init__(self) -> None:
            super().__init__(lambda block, x, y: x + y)
            self.before = Block(lambda block, x, y: y)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(self.before(self.first(x))))

    blocks = surgery.find_sites(Downsampling(), torch.randn(3, 4)).blocks
    assert [(str(block), block.locked) for block in blocks] == [
        ("before", "it joins no paths by a sum"),
        ("block", None),
    ]


def test_stages_of_plain_networks_are_listed_too() -> None:
    sites = surgery.find_sites(models.PlainNet(), models.PlainNet.example)
    assert [str(block) for block in sites.blocks] == list(sites.by_block())
    assert {block.locked for block in sites.blocks} == {"it is not a module"}


def test_a_block_that_runs_again_later_cannot_be_dropped() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.block(self.first(self.block(self.first(x)))))

    (block,) = surgery.find_sites(Twice(lambda block, x, y: x + y), torch.randn(3, 4)).blocks
    assert block.locked == NO_IDENTITY
