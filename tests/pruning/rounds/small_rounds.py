"""A small network, its training, and pruners that note what they are given."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from pruning.masks.cut import count_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.rounds.round import Round
from pruning.rounds.rounds import run_rounds
from tests.asserts import assert_raises

Held = Callable[..., AbstractContextManager[None]]


class Net(nn.Module):
    """Two convolutions with a norm between, and a buffer that the state dict leaves out."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.conv2(self.bn(self.conv1(x)).relu()).mean((2, 3))


def net(seed: int = 0, width: int = 4) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)


def batch() -> tuple[Tensor, Tensor]:
    """Images and labels from all three global generators."""
    x = torch.randn(4, 3, 8, 8) + float(numpy.random.standard_normal()) * 0.1
    return x, torch.tensor([random.randrange(2) for _ in range(4)])


def train(model: nn.Module, held: Held, steps: int = 3, tick: Callable[[], None] = lambda: None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    with held(optimizer):
        for _ in range(steps):
            tick()
            x, y = batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def magnitude(round: Round, share: float) -> Masks:
    scores = {name: weight.abs() for name, weight in round.now.items()}
    return cut_lowest(round.masks, scores, count_of(share, round.masks.alive))


def state(model: nn.Module) -> dict[str, Tensor]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


class Spy:
    """A pruner by movement if it wants that, else by magnitude, that records its arguments."""

    def __init__(self, *wants: str) -> None:
        self.wants = frozenset(wants)
        self.rounds: list[Round] = []

    def __repr__(self) -> str:
        return "Spy()"

    def __call__(self, round: Round, share: float) -> Masks:
        self.rounds.append(Round(round.model, *_clones(round.before, round.now), round.masks,
                               *_clones(round.gradients, round.movement)))  # fmt: skip
        if "movement" in self.wants:
            return cut_lowest(round.masks, round.movement, count_of(share, round.masks.alive))
        return magnitude(round, share)


class Stages(Spy):
    """Two cuts of half the share each, of the weights that were unpruned when the round began."""

    def stages(self, alive: int, share: float) -> list[Callable[[Round], Masks]]:
        whole = count_of(share, alive)
        return [partial(self._cut, whole - whole // 2), partial(self._cut, whole // 2)]

    def _cut(self, count: int, round: Round) -> Masks:
        return self(round, count / round.masks.alive)


def _clones(*parts: Any) -> Iterator[dict[str, Tensor]]:
    return ({name: tensor.clone() for name, tensor in part.items()} for part in parts)


def refused(error: type[Exception], model: nn.Module, *words: str, **changed: Any) -> None:
    asked = {"train": never, "pruner": magnitude, "share": 0.2, "rounds": 1} | changed
    assert_raises(error, lambda: run_rounds(model, **asked), *words)


def never(*_: object) -> None:
    raise AssertionError("trained")
