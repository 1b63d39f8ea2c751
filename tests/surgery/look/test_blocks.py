"""Blocks: which joins make one, also where a network ranks and filters what it found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import surgery


class Proposals(nn.Module):
    """Two scores for each place; the best are returned, chosen in one of the ways of a detector."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.hidden, self.relu, self.scores, self.boxes = (
            nn.Conv2d(3, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(4, 2, 1),
        )
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.hidden(x))
        found = torch.cat([self.scores(x).sigmoid(), self.boxes(x)], 1).flatten(2)[0]
        if self.way == "all":
            return found
        if self.way == "argsort":
            return found[:, (found[0] + found[2].max()).argsort()[:3]]  # boxes of two classes are moved apart
        if self.way == "sort":
            return found[:, found[0].sort()[1][:3]]
        keep = torch.zeros_like(found[0], dtype=torch.bool)
        for row in range(2):
            keep[found[row].topk(2)[1]] = True
        return found[:, torch.where(keep)[0]]


class Net(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.rpn = Proposals(way)

    def forward(self, x: Tensor) -> Tensor:
        return self.rpn(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["argsort", "sort", "mask"])
def test_how_a_network_ranks_what_it_found_is_not_a_join(way: str) -> None:
    chosen, plain = (surgery.find_sites(Net(kind), torch.rand(1, 3, 4, 4)) for kind in (way, "all"))
    assert [(site.block, site.joins_by) for site in chosen] == [("rpn", "concat")] * 2
    facts = [(site.block_kind, site.joins_by, site.branch, site.fed_by) for site in chosen]
    assert facts == [(site.block_kind, site.joins_by, site.branch, site.fed_by) for site in plain]
    assert "other" not in {kind for site in chosen for kind in site.feeds}
