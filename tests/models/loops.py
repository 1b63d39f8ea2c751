"""Calls in loops, in helpers, in inherited methods, and in train mode only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.stated import Stated, site


class ListLoop(Stated):
    """A loop over two module lists."""

    sites = tuple(
        site(f"acts.{n}", module=f"acts.{n}", callee="act", ordinal=1, iteration=n + 1, weights=(f"convs.{n}.weight",))
        for n in range(3)
    )

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        return x


class SharedInComprehension(Stated):
    """One module, called for every element of a list."""

    sites = tuple(
        site("act", callee="self.act", ordinal=1, iteration=n + 1, turn=n + 1, turns=3, method="forward",
             module="act", fed_by=("conv",), feeds=("concat",), weights=(f"convs.{n}.weight",))
        for n in range(3)
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.act, self.last = nn.ReLU(), nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.act(conv(x)) for conv in self.convs], 1))


class WhileLoop(Stated):
    """A functional call in a while loop, one call of the same function after it."""

    sites = (
        site("relu", callee="F.relu", ordinal=1, iteration=1, turn=1, turns=3, weights=("conv.weight",)),
        site("relu", callee="F.relu", ordinal=1, iteration=2, turn=2, turns=3, weights=("conv.weight",)),
        site("relu", callee="F.relu", ordinal=2, iteration=None, turn=3, turns=3, weights=("last.weight",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = 2
        while left:
            x = F.relu(self.conv(x))
            left -= 1
        return F.relu(self.last(x))


class Head(nn.Module):
    """What a detector calls on every level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.conv(x)))


class HeadOnLevels(Stated):
    """One head run on three feature levels."""

    sites = tuple(
        site("act", owner="head", run=n + 1, runs=3, turn=1, turns=1, iteration=None, ordinal=1, callee="self.act",
             weights=("head.conv.weight",), shape=(2, 4, side, side))
        for n, side in enumerate((8, 4, 2))
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.head = nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), Head(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [self.stem(x)]
        for _ in range(2):
            levels.append(self.down(levels[-1]))
        return [self.head(level) for level in levels]


class TrainOnly(Stated):
    """An auxiliary output with its own activation, in training only."""

    sites = (
        site("act", ordinal=1, turn=1, turns=2, fed_by=("conv",)),
        site("aux", "silu", modes=("train",), callee="self.aux", feeds=("linear",)),
        site("act", ordinal=2, turn=2, turns=2, weights=("conv2.weight",), feeds=("output",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()
        self.aux, self.side1, self.side2 = nn.SiLU(), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.act(self.conv1(x))
        side = self.side2(self.aux(self.side1(x))) if self.training else None
        x = self.act(self.conv2(x))
        return (x, side) if self.training else x


class HelperMethod(Stated):
    """The call sits in a helper that forward calls twice."""

    sites = (
        site(
            "act",
            "silu",
            method="step",
            run=1,
            runs=2,
            turn=...,
            turns=...,
            callee="self.act",
            ordinal=1,
            weights=("conv1.weight",),
        ),
        site(
            "act",
            "silu",
            method="step",
            run=2,
            runs=2,
            turn=...,
            turns=...,
            callee="self.act",
            ordinal=1,
            weights=("conv2.weight",),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.SiLU()

    def step(self, conv: nn.Module, x: Tensor) -> Tensor:
        return self.act(conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.conv2, self.step(self.conv1, x))


class Parent(nn.Module):
    """One convolution and its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Inherited(Parent):
    """The same with the forward of its parent class."""


class CallsSuper(Parent):
    """Its own functional call after the parent's forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(super().forward(x))


class SuperForward(Stated):
    """A child that inherits forward and one that extends it."""

    sites = (
        site("act", owner="inherits", owner_kind="Inherited", module="inherits.act"),
        site("act", owner="extends", owner_kind="CallsSuper", module="extends.act", feeds=("activation",)),
        site("elu", "elu", owner="extends", owner_kind="CallsSuper", callee="F.elu", fed_by=("activation",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.inherits, self.widen, self.extends = Inherited(), nn.Conv2d(4, 3, 1), CallsSuper()

    def forward(self, x: Tensor) -> Tensor:
        return self.extends(self.widen(self.inherits(x)))
