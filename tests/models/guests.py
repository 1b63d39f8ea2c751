"""Models that need care: they raise, hold state, carry hooks, or are graphs."""

from __future__ import annotations

import random

import numpy
import torch
from torch import Tensor, fx, nn

from tests.models.calls import TwiceUsed
from tests.models.stated import Stated, picture, site


class Raises(Stated):
    """Fails after its first activation, with statistics and random numbers already touched."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.bn(self.conv(x))))
        torch.rand(1)
        raise ValueError("the model's own complaint")


class DependsOnNumbers(Stated):
    """Branches on a number, so that it cannot run on meta."""

    sites = (
        site("low", "relu", fed_by=("conv",), feeds=("conv",), weights=("conv1.weight",)),
        site("last", "silu", fed_by=("conv",), feeds=("output",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.low, self.high, self.last = nn.ReLU(), nn.GELU(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        act = self.high if (x * 0).sum().item() > 1 else self.low
        return self.last(self.conv2(act(x)))


class Stateful(Stated):
    """Writes to itself in every way and draws random numbers from every source, in eval mode too."""

    calls: Tensor
    kept: Tensor | None
    sites = (site("act", fed_by=("norm",), feeds=("output",), weights=("conv.weight",)),)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.register_buffer("calls", torch.zeros(()))
        self.seen = 0
        self.kept = None
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.kept = x
        self.shapes.append(x.shape)
        noise = torch.rand(()) + random.random() + float(numpy.random.rand())
        return self.act(self.bn(self.conv(x))) + noise.item() * 0.0


class PlainTensors(Stated):
    """Tensors kept in plain attributes, which no `.to()` moves."""

    sites = (site("act", fed_by=("conv",), feeds=("output",), weights=("conv.weight",)),)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()
        self.scales = [torch.full((1, 4, 1, 1), 2.0)]
        self.shift = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) * self.scales[0] * self.shift)


class HalfPrecision(TwiceUsed):
    """The first model, in half precision."""

    sites = tuple(facts | {"owner_kind": "HalfPrecision"} for facts in TwiceUsed.sites)
    example = picture().half()

    def __init__(self) -> None:
        super().__init__()
        self.half()


class UserHooks(TwiceUsed):
    """The first model, with forward hooks of its user on it."""

    sites = tuple(facts | {"owner_kind": "UserHooks"} for facts in TwiceUsed.sites)

    def __init__(self) -> None:
        super().__init__()
        self.act.register_forward_hook(lambda module, args, output: None)
        self.conv1.register_forward_pre_hook(lambda module, args: None)


class Encoder(Stated):
    """torch's own transformer layers, one with a function, one with a module, one gated off by none."""

    sites = (
        site("relu", owner="body.0", owner_kind="TransformerEncoderLayer", method="_ff_block", module=None,
             callee="self.activation", fed_by=("linear",), feeds=("linear",), weights=("body.0.linear1.weight",),
             channels=6, channel_axis=2),
        site("activation", "gelu", owner="body.1", method="_ff_block", module="body.1.activation",
             callee="self.activation", fed_by=("linear",), feeds=("linear",)),
    )  # fmt: skip
    example = torch.rand(2, 5, 4)

    def __init__(self) -> None:
        super().__init__()
        first = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        second = nn.TransformerEncoderLayer(4, 2, 6, activation=nn.GELU(), batch_first=True)
        self.body = nn.Sequential(first, second)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


GRAPH_SITES = (
    site("act", turn=1, turns=2, module="act", fed_by=("conv",), feeds=("conv",), weights=("conv1.weight",)),
    site("act", turn=2, turns=2, module="act", fed_by=("norm",), feeds=("output",), weights=("conv2.weight",)),
)


def graph_model() -> fx.GraphModule:
    """`TwiceUsed` as a graph; its sites are `GRAPH_SITES`."""
    return fx.symbolic_trace(TwiceUsed())
