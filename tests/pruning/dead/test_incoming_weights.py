"""The signs of norms behind weights, and values broadcast against weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.dead.incoming_weights import by_input, by_output, signs_behind_norms
from surgery.look.finder import find_sites


class Two(nn.Module):
    """A layer that feeds two calls, each behind its own norm, and a layer without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 4, 1)
        self.one, self.other = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.plain, self.bare = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3, affine=False)
        self.last = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = self.relu(self.one(x)) + self.relu(self.other(x))
        x = self.relu(self.bare(self.plain(x)))
        return self.relu(self.norm(self.last(x)))  # type: ignore[no-any-return]


def test_signs_are_those_of_the_scales() -> None:
    model = Two()
    with torch.no_grad():
        model.one.weight.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0]))
        model.other.weight.copy_(torch.tensor([3.0, -2.0, -1.0, -1.0]))
        model.norm.weight.copy_(torch.tensor([0.5, -0.5, 0.0, -0.0, 2.0]))
    signs = signs_behind_norms(model, find_sites(model, torch.zeros(2, 2, 4, 4)))
    assert {name: number.tolist() for name, number in signs.items()} == {
        "body.weight": [1, -1, 0, -1],
        "plain.weight": [1, 1, 1],
        "last.weight": [1, -1, 0, 0, 1],
    }


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(2, 4, 1, groups=2)
        self.both, self.norm, self.relu = nn.Conv2d(2, 7, 1), nn.BatchNorm2d(7), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x), self.right(x)], 1)
        return self.relu(self.norm(joined + self.both(x)))  # type: ignore[no-any-return]


def test_parts_of_a_concatenation_do_not_count() -> None:
    model = Joined()
    nn.init.constant_(model.norm.weight, -1)
    signs = signs_behind_norms(model, find_sites(model, torch.zeros(2, 2, 4, 4)))
    assert {name: number.tolist() for name, number in signs.items()} == {"both.weight": [-1] * 7}


def test_values_are_shaped_for_the_weight() -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(6, 4, 3, groups=2), "back": nn.ConvTranspose2d(6, 4, 3, groups=2)})
    out, into = torch.arange(4.0), torch.arange(6.0)
    conv, back = torch.ones(4, 3, 3, 3), torch.ones(6, 2, 3, 3)
    assert (conv * by_output(model, "conv.weight", out))[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert (conv * by_input(model, "conv.weight", into))[:, :, 1, 1].tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2
    assert (back * by_input(model, "back.weight", into))[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (back * by_output(model, "back.weight", out))[:, :, 2, 0].tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
