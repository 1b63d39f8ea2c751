"""Tiny models that state their own sites: what looking at them must find, in order of execution.

`sites` names for every call only the facts that follow from the meaning of the fields; a fact that is not named is
not checked. `example` is what the model is called on. Modes are ("eval", "train") unless stated.

Three conventions that could have been others:
- The target of a function is its name without a trailing underscore; that it works in place is a fact of its own.
- `branch` counts the operands of the block's concat; an operand that is itself a concat of the same module counts as
  its own operands.
- `fed_by` and `feeds` look through a product or a sum with a constant or a weight (a layer scale, a shift).
"""

from __future__ import annotations

import copy
import random
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from timm.layers.activations_me import HardSigmoidMe, HardSwishMe, MishMe, SwishMe
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import FloatFunctional

Facts = dict[str, Any]

BOTH = ("eval", "train")


def site(target: str, activation: str = "relu", **facts: Any) -> Facts:
    """What is true of one call; alone in its owner, out of place and seen in both modes unless said otherwise.

    A fact given as `...` is left open.
    """
    usual: Facts = {"owner": "", "method": "forward", "turn": 1, "turns": 1, "modes": BOTH, "inplace": False}
    stated = usual | {"target": target, "activation": activation} | facts
    return {key: value for key, value in stated.items() if value is not ...}


def picture(channels: int = 3, side: int = 8) -> Tensor:
    """A batch of two pictures, the same numbers every time."""
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


class Stated(nn.Module):
    """A model that says which activation calls it makes."""

    sites: ClassVar[tuple[Facts, ...]] = ()
    example: ClassVar[Any] = picture()


# One module, several calls


class TwiceUsed(Stated):
    """One ReLU object, two calls."""

    sites = (
        site("act", turn=1, turns=2, callee="self.act", ordinal=1, iteration=None, run=1, runs=1, module="act",
             owner_kind="TwiceUsed", role="nonlinearity", fed_by=("conv",), feeds=("conv",), weights=("conv1.weight",),
             shape=(2, 4, 8, 8), channels=4, channel_axis=1, overwrites=False, locked=None),
        site("act", turn=2, turns=2, callee="self.act", ordinal=2, iteration=None, run=1, runs=1, module="act",
             owner_kind="TwiceUsed", role="nonlinearity", fed_by=("norm",), feeds=("output",),
             weights=("conv2.weight",), shape=(2, 5, 8, 8), channels=5, channel_axis=1, overwrites=False),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(5)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        return self.act(self.bn2(self.conv2(x)))


class ThriceInPlace(Stated):
    """One in-place ReLU object, three calls, two of them nested in one line."""

    sites = (
        site("act", turn=1, turns=3, ordinal=1, inplace=True, module="act", weights=("fc1.weight",), channels=4),
        site("act", turn=2, turns=3, ordinal=2, inplace=True, fed_by=("linear",), feeds=("linear",), channels=5),
        site("act", turn=3, turns=3, ordinal=3, inplace=True, weights=("fc3.weight",), feeds=("output",), channels=6,
             channel_axis=1, shape=(2, 6)),
    )  # fmt: skip
    example = torch.rand(2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc3(self.act(self.fc2(self.act(self.fc1(x))))))


class TwoNames(Stated):
    """One ReLU object under two names, each called once."""

    sites = (
        site("first", module="first", callee="self.first", ordinal=1, feeds=("conv",)),
        site("second", module="second", callee="self.second", ordinal=1, feeds=("output",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.first = nn.ReLU()
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv2(self.first(self.conv1(x))))


class Mlp(nn.Module):
    """Linear, GELU, dropout, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.drop = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


class AliasBlocks(Stated):
    """One block object under two names, as in CoaT."""

    sites = (
        site("act", "gelu", owner="mlp1", module="mlp1.act", weights=("mlp1.fc1.weight",), feeds=("linear",)),
        site("act", "gelu", owner="mlp2", module="mlp2.act", fed_by=("linear",), feeds=("linear",)),
        site("act", "gelu", owner="mlp3", module="mlp3.act", fed_by=("linear",), feeds=("linear",)),
    )
    example = torch.rand(2, 5, 4)

    def __init__(self) -> None:
        super().__init__()
        self.mlp1 = Mlp(4, 6)
        self.mlp2 = Mlp(4, 6)
        self.mlp3 = self.mlp2

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp3(self.mlp2(self.mlp1(x)))


# Spellings


class FunctionalSpellings(Stated):
    """Functional calls and tensor methods, in place and not."""

    sites = (
        site("relu", callee="F.relu", ordinal=1, module=None, turn=1, turns=5, fed_by=("conv",),
             feeds=("activation",), weights=("conv1.weight",)),
        site("relu", callee="x.relu", module=None, turn=2, turns=5, fed_by=("activation",), feeds=("conv",)),
        site("relu", callee="torch.relu_", module=None, turn=3, turns=5, inplace=True, fed_by=("conv",),
             weights=("conv2.weight",)),
        site("relu", callee="F.relu", ordinal=2, turn=4, turns=5, inplace=True, fed_by=("conv",)),
        site("relu", callee=".relu", turn=5, turns=5, fed_by=("conv",), weights=("conv4.weight",)),
        site("hardtanh", "relu6", callee="F.hardtanh"),
        site("sigmoid", "sigmoid", callee="x.sigmoid", role="nonlinearity", feeds=("conv",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4, self.last = (nn.Conv2d(3, 3, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = x.relu()
        x = torch.relu_(self.conv2(x))
        x = F.relu(self.conv3(x), inplace=True)
        x = self.conv4(x).relu()
        x = F.hardtanh(x, 0, 6)
        x = x.sigmoid()
        return self.last(x)


class FunctionalOptions(Stated):
    """Functional calls with options; the softmax and the threshold are none of ours."""

    sites = (
        site("leaky_relu", "leaky_relu", inplace=True),
        site("elu", "elu"),
        site("gelu", "gelu", turn=1, turns=2),
        site("gelu", "gelu_tanh", turn=2, turns=2),
        site("silu", "silu", inplace=True),
        site("hardswish", "hardswish"),
        site("softplus", "softplus", role="nonlinearity"),
        site("prelu", "prelu"),
        site("relu6", "relu6"),
        site("hardtanh", "hardtanh"),
        site("selu", "selu"),
        site("celu", "celu"),
        site("mish", "mish"),
        site("hardsigmoid", "hardsigmoid", role="nonlinearity"),
        site("tanh", "tanh", role="nonlinearity", feeds=("linear",)),
    )
    example = torch.rand(2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.fc1(x), 0.1, inplace=True)
        x = F.elu(x, alpha=0.5)
        x = F.gelu(F.gelu(x), approximate="tanh")
        x = F.silu(x, inplace=True)
        x = F.hardswish(x)
        x = F.softplus(x, beta=2.0)
        x = F.prelu(x, self.slope)
        x = F.relu6(x)
        x = F.hardtanh(x)
        x = F.mish(F.celu(F.selu(x)))
        x = F.threshold(x, 0.1, 0.0)
        x = torch.tanh(F.hardsigmoid(x))
        return F.softmax(self.fc2(x), -1)


class EveryModule(Stated):
    """Every activation module of torch's closed list, one after the other; softmax is none."""

    names: ClassVar[tuple[tuple[nn.Module, str], ...]] = (
        (nn.ReLU(), "relu"),
        (nn.ReLU6(), "relu6"),
        (nn.Hardtanh(0.0, 6.0), "relu6"),
        (nn.Hardtanh(-2.0, 2.0), "hardtanh"),
        (nn.LeakyReLU(0.1), "leaky_relu"),
        (nn.PReLU(4), "prelu"),
        (nn.ELU(), "elu"),
        (nn.SELU(), "selu"),
        (nn.CELU(), "celu"),
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.SiLU(), "silu"),
        (nn.Mish(), "mish"),
        (nn.Hardswish(), "hardswish"),
        (nn.Softplus(), "softplus"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Hardsigmoid(), "hardsigmoid"),
        (nn.Tanh(), "tanh"),
    )
    sites = tuple(
        site(str(place), name, owner="body", module=f"body.{place}", channels=4, channel_axis=1)
        for place, (_, name) in enumerate(names, start=1)
    )

    def __init__(self) -> None:
        super().__init__()
        acts = [copy.deepcopy(act) for act, _ in self.names]
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), *acts, nn.Conv2d(4, 2, 1), nn.Softmax(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TimmOwnAutograd(Stated):
    """timm's activations with a backward of their own: no torch function is called in them."""

    sites = (
        site("hswish", "hardswish", module="hswish", fed_by=("conv",), weights=("conv.weight",), channels=4),
        site("swish", "silu", fed_by=("activation",)),
        site("mish", "mish"),
        site("hsig", "hardsigmoid", role="nonlinearity", feeds=("conv",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.hswish, self.swish, self.mish, self.hsig = HardSwishMe(), SwishMe(), MishMe(), HardSigmoidMe()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hsig(self.mish(self.swish(self.hswish(self.conv(x))))))


class NormAct(Stated):
    """timm's batch norm that holds its activation."""

    sites = (
        site("act", owner="bn", owner_kind="BatchNormAct2d", module="bn.act", inplace=True, fed_by=("norm",),
             feeds=("conv",), weights=("conv.weight",), channels=4, channel_axis=1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn(self.conv(x)))


class QuickGELU(nn.Module):
    """The class that half of all CLIP code carries along."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SquaredReLU(nn.Module):
    """The square of a ReLU that it holds itself, as in timm's metaformers."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(self.relu(x))


class MyReLU(nn.ReLU):
    """A subclass of torch's."""


class ForeignClasses(Stated):
    """Activation classes of somebody's own: two by their well-known names, one as a subclass."""

    sites = (
        site("quick", "quick_gelu", module="quick", role="nonlinearity", fed_by=("linear",), feeds=("linear",)),
        site("square", "squared_relu", module="square", fed_by=("linear",), feeds=("linear",)),
        site("mine", "relu", module="mine", role="nonlinearity", fed_by=("linear",), feeds=("output",)),
    )
    example = torch.rand(2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(4, 4) for _ in range(3))
        self.quick, self.square, self.mine = QuickGELU(), SquaredReLU(), MyReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.mine(self.fc3(self.square(self.fc2(self.quick(self.fc1(x))))))


def free_swish(x: Tensor) -> Tensor:
    """An activation in a function of no module."""
    return F.silu(x)


class FreeFunction(Stated):
    """The call is in a free function: it belongs to the module that called the function."""

    sites = (site("silu", "silu", module=None, fed_by=("conv",), feeds=("conv",), owner_kind="FreeFunction"),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(free_swish(self.conv1(x)))


# Gates and heads


class SqueezeExcite(nn.Module):
    """Pool, reduce, ReLU, expand, sigmoid, multiply."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.act, self.gate = nn.ReLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class SqueezeExciteNet(Stated):
    """A convolution whose channels are scaled by a gate."""

    sites = (
        site("act", role="nonlinearity", fed_by=("norm",), feeds=("mul", "pool"), weights=("conv.weight",)),
        site("act", owner="se", role="gate", inplace=True, fed_by=("conv",), feeds=("conv",), channels=2,
             weights=("se.fc1.weight",), shape=(2, 2, 1, 1)),
        site("gate", "sigmoid", owner="se", role="gate", fed_by=("conv",), feeds=("mul",), channels=4,
             weights=("se.fc2.weight",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.se, self.last = SqueezeExcite(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.se(self.act(self.bn(self.conv(x)))))


class SwiGlu(Stated):
    """A gated unit: SiLU of one half multiplies the other."""

    sites = (
        site("act", "silu", role="gate", fed_by=("linear",), feeds=("mul",), weights=("fc1.weight",), channels=6,
             channel_axis=2, shape=(2, 5, 6)),
    )  # fmt: skip
    example = torch.rand(2, 5, 4)

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 12), nn.SiLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.act(gate) * value)


class LinearAttention(Stated):
    """ReLU kernels of a linear attention: they only scale other data, through a matrix product."""

    sites = (
        site("kernel", turn=1, turns=2, role="gate", fed_by=("linear",), feeds=("matmul",)),
        site("kernel", turn=2, turns=2, role="gate", fed_by=("linear",), feeds=("matmul",)),
    )
    example = torch.rand(2, 5, 4)

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.kernel = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.kernel(self.q(x)), self.kernel(self.k(x))
        return q @ (k.transpose(1, 2) @ self.v(x))


class SigmoidHead(Stated):
    """A squashing function at the very end is the head, the ReLU before is not."""

    sites = (
        site("act", role="nonlinearity", fed_by=("linear",), feeds=("linear",)),
        site("sigmoid", "sigmoid", role="head", module=None, callee="torch.sigmoid", fed_by=("linear",),
             feeds=("output",)),
    )  # fmt: skip
    example = torch.rand(2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(self.act(self.fc1(x)))).squeeze(-1)


# Blocks


class BasicBlock(nn.Module):
    """Two convolutions and the shortcut, one shared in-place ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1), nn.BatchNorm2d(width))
        if width_in == width:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class ResidualNet(Stated):
    """Stem, pool, two basic blocks, the second with a convolution in its shortcut."""

    sites = (
        site("relu", block=None, position=None, positions=None, joins_by=None, inplace=True, fed_by=("norm",),
             feeds=("pool",), weights=("conv1.weight",)),
        site("relu", owner="layer1.0", turn=1, turns=2, block="layer1.0", block_kind="BasicBlock", position=1,
             positions=2, joins_by="add", branch=None, inplace=True, fed_by=("norm",), feeds=("conv",),
             weights=("layer1.0.conv1.weight",), owner_kind="BasicBlock", module="layer1.0.relu"),
        site("relu", owner="layer1.0", turn=2, turns=2, block="layer1.0", block_kind="BasicBlock", position=2,
             positions=2, joins_by="add", branch=None, inplace=True, fed_by=("add",), feeds=("conv",),
             weights=("layer1.0.conv2.weight",)),
        site("relu", owner="layer1.1", turn=1, turns=2, block="layer1.1", position=1, positions=2, inplace=True,
             fed_by=("norm",), feeds=("conv",)),
        site("relu", owner="layer1.1", turn=2, turns=2, block="layer1.1", position=2, positions=2, inplace=True,
             fed_by=("add",), feeds=("pool",), weights=("layer1.1.conv2.weight", "layer1.1.downsample.0.weight"),
             channels=6),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 6))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Bottleneck(nn.Module):
    """Three convolutions with an activation module each, as timm writes them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(width, 2, 1), nn.BatchNorm2d(2), nn.ReLU()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
        self.conv3, self.bn3, self.act3 = nn.Conv2d(2, width, 1), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.act3(self.bn3(self.conv3(y)) + x)


class BottleneckNet(Stated):
    """Two bottlenecks in a row behind a plain stem convolution."""

    sites = (
        site("act1", owner="body.0", block="body.0", position=1, positions=3, joins_by="add", fed_by=("norm",)),
        site("act2", owner="body.0", block="body.0", position=2, positions=3, feeds=("conv",)),
        site("act3", owner="body.0", block="body.0", position=3, positions=3, fed_by=("add",), feeds=("add", "conv"),
             weights=("body.0.conv3.weight", "stem.weight"), channels=4),
        site("act1", owner="body.1", block="body.1", position=1, positions=3),
        site("act2", owner="body.1", block="body.1", position=2, positions=3, weights=("body.1.conv2.weight",)),
        site("act3", owner="body.1", block="body.1", position=3, positions=3, fed_by=("add",), feeds=("output",),
             weights=("body.1.conv3.weight",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Sequential(Bottleneck(4), Bottleneck(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class PreActBlock(nn.Module):
    """Norm, ReLU, convolution, twice, then the shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + x


class PreActNet(Stated):
    """Two pre-activation blocks and the ReLU before the head."""

    sites = (
        site("relu", owner="body.0", turn=1, turns=2, block="body.0", position=1, positions=2, joins_by="add",
             fed_by=("norm",), feeds=("conv",), weights=("stem.weight",)),
        site("relu", owner="body.0", turn=2, turns=2, block="body.0", position=2, positions=2,
             weights=("body.0.conv1.weight",)),
        site("relu", owner="body.1", turn=1, turns=2, block="body.1", position=1, positions=2, fed_by=("norm",),
             weights=("body.0.conv2.weight", "stem.weight")),
        site("relu", owner="body.1", turn=2, turns=2, block="body.1", position=2, positions=2),
        site("relu", block=None, position=None, fed_by=("norm",), feeds=("pool",), callee="F.relu",
             weights=("body.0.conv2.weight", "body.1.conv2.weight", "stem.weight")),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Sequential(PreActBlock(4), PreActBlock(4))
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.body(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ConvRelu(nn.Module):
    """Convolution, norm and functional in-place ReLU."""

    def __init__(self, width_in: int, width: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Four branches joined by concat: direct, reduced, split once more, pooled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.direct = ConvRelu(width, 2)
        self.reduce, self.wide = ConvRelu(width, 2), ConvRelu(2, 3, 3)
        self.fork, self.left, self.right = ConvRelu(width, 2), ConvRelu(2, 2), ConvRelu(2, 2)
        self.pooled = ConvRelu(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        direct = self.direct(x)
        wide = self.wide(self.reduce(x))
        fork = self.fork(x)
        forked = torch.cat([self.left(fork), self.right(fork)], 1)
        pooled = self.pooled(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([direct, wide, forked, pooled], 1)


def _mixed(name: str, position: int, **facts: Any) -> Facts:
    usual = {"owner": f"mixed.{name}", "module": None, "callee": "F.relu", "inplace": True, "block": "mixed"}
    usual |= {"block_kind": "Mixed", "position": position, "positions": 7, "joins_by": "concat", "fed_by": ("norm",)}
    return site("relu", "relu", **(usual | {"weights": (f"mixed.{name}.conv.weight",)} | facts))


class InceptionNet(Stated):
    """A stem and one module of four branches, one of them with a concat of its own."""

    sites = (
        site("relu", owner="stem", block=None, inplace=True, position=None),
        _mixed("direct", 1, feeds=("concat",), branch=0, channels=2),
        _mixed("reduce", 2, feeds=("conv",)),
        _mixed("wide", 3, feeds=("concat",), branch=1, channels=3),
        _mixed("fork", 4, feeds=("conv",)),
        _mixed("left", 5, feeds=("concat",), branch=2),
        _mixed("right", 6, feeds=("concat",), branch=3),
        _mixed("pooled", 7, feeds=("concat",), branch=4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed, self.last = ConvRelu(3, 4), Mixed(4), nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mixed(self.stem(x)))


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; the input is kept beside the result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.relu1, self.conv1 = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, 4, 1)
        self.norm2, self.relu2, self.conv2 = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        new = self.conv2(self.relu2(self.norm2(new)))
        return torch.cat([x, new], 1)


class DenseNet(Stated):
    """Two dense layers."""

    sites = (
        site("relu1", owner="layers.0", block="layers.0", position=1, positions=2, joins_by="concat", inplace=True,
             fed_by=("norm",), feeds=("conv",), weights=("stem.weight",), channels=3),
        site("relu2", owner="layers.0", block="layers.0", position=2, positions=2, joins_by="concat", inplace=True,
             weights=("layers.0.conv1.weight",), branch=1),
        site("relu1", owner="layers.1", block="layers.1", position=1, positions=2, inplace=True, channels=5),
        site("relu2", owner="layers.1", block="layers.1", position=2, positions=2, inplace=True, feeds=("conv",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 3, 1), nn.Sequential(DenseLayer(3), DenseLayer(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.stem(x))


class Fire(nn.Module):
    """SqueezeNet's module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.squeeze_act = nn.Conv2d(width, 2, 1), nn.ReLU(inplace=True)
        self.expand1, self.expand1_act = nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True)
        self.expand3, self.expand3_act = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_act(self.squeeze(x))
        return torch.cat([self.expand1_act(self.expand1(x)), self.expand3_act(self.expand3(x))], 1)


class FireNet(Stated):
    """One fire module between two convolutions."""

    sites = (
        site("squeeze_act", owner="fire", block="fire", block_kind="Fire", position=1, positions=3, inplace=True,
             joins_by="concat", fed_by=("conv",), feeds=("conv",)),
        site("expand1_act", owner="fire", block="fire", position=2, positions=3, inplace=True, branch=0,
             feeds=("concat",), channels=3),
        site("expand3_act", owner="fire", block="fire", position=3, positions=3, inplace=True, branch=1,
             feeds=("concat",), channels=4),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fire, self.last = nn.Conv2d(3, 4, 1), Fire(4), nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fire(self.stem(x)))


class ShuffleUnit(nn.Module):
    """One half passes, the other goes through a branch; then the channels are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1, groups=half),
            nn.BatchNorm2d(half), nn.Conv2d(half, half, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, dim=1)
        out = torch.cat((kept, self.branch(moved)), dim=1)
        n, c, h, w = out.shape
        return out.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(Stated):
    """One shuffle unit between two convolutions."""

    sites = (
        site("1", owner="unit.branch", block="unit", block_kind="ShuffleUnit", position=1, positions=2,
             joins_by="concat", feeds=("conv",), weights=("unit.branch.0.weight",)),
        site("5", owner="unit.branch", block="unit", position=2, positions=2, branch=1, feeds=("concat",),
             weights=("unit.branch.4.weight",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unit, self.last = nn.Conv2d(3, 4, 1), ShuffleUnit(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.unit(self.stem(x)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project: the block ends linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class MobileNet(Stated):
    """One inverted residual."""

    sites = (
        site("2", "relu6", owner="block.conv", block="block", block_kind="InvertedResidual", position=1, positions=2,
             joins_by="add", inplace=True, feeds=("conv",), fed_by=("norm",), weights=("block.conv.0.weight",)),
        site("5", "relu6", owner="block.conv", block="block", position=2, positions=2, joins_by="add", inplace=True,
             feeds=("conv",), weights=("block.conv.3.weight",)),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.last = nn.Conv2d(3, 4, 1), InvertedResidual(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.stem(x)))


class PlainNet(Stated):
    """VGG in small: two stages between pools, then a classifier of linear layers."""

    sites = (
        site("1", owner="features", block="features#1", position=1, positions=2, inplace=True, joins_by=None),
        site("3", owner="features", block="features#1", position=2, positions=2, inplace=True, feeds=("pool",)),
        site("6", owner="features", block="features#2", position=1, positions=3, inplace=True, fed_by=("conv",)),
        site("8", owner="features", block="features#2", position=2, positions=3, inplace=True),
        site("10", owner="features", block="features#2", position=3, positions=3, inplace=True, feeds=("pool",)),
        site("1", owner="classifier", block=None, position=None, fed_by=("linear",), feeds=("linear",), channels=7,
             channel_axis=1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        act = lambda: nn.ReLU(inplace=True)  # noqa: E731
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), act(), nn.Conv2d(4, 4, 3, padding=1), act(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), act(), nn.Conv2d(6, 6, 3, padding=1), act(),
            nn.Conv2d(6, 6, 3, padding=1), act(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Attention(nn.Module):
    """Self-attention with two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class VitBlock(nn.Module):
    """Attention and MLP, each with its shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyVit(Stated):
    """Patches, two blocks, head."""

    sites = tuple(
        site("act", "gelu", owner=f"blocks.{n}.mlp", module=f"blocks.{n}.mlp.act", role="nonlinearity",
             block=f"blocks.{n}.mlp", block_kind="Mlp", position=1, positions=1, fed_by=("linear",),
             feeds=("linear",), weights=(f"blocks.{n}.mlp.fc1.weight",), shape=(2, 4, 12), channels=12, channel_axis=2)
        for n in range(2)
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 4, 4, stride=4), nn.Sequential(VitBlock(4), VitBlock(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).mean(1))


class ConvNextBlock(nn.Module):
    """Depthwise convolution, then norm and MLP with channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(self.act(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(Stated):
    """Channels last inside the block."""

    sites = (
        site("act", "gelu", owner="block", block="block", block_kind="ConvNextBlock", position=1, positions=1,
             joins_by="add", fed_by=("linear",), feeds=("linear",), weights=("block.fc1.weight",),
             shape=(2, 8, 8, 9), channels=9, channel_axis=3),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 1), ConvNextBlock(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class AddReluBlock(nn.Module):
    """A residual block as the quantisable ones are written: add and ReLU are one call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.relu, self.join = nn.ReLU(), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        return self.join.add_relu(out, x)


class AddReluNet(Stated):
    """One quantisable block."""

    sites = (
        site("relu", owner="block", block="block", position=1, positions=2, joins_by="add"),
        site("relu", owner="block.join", owner_kind="FloatFunctional", method="add_relu", module=None, block="block",
             block_kind="AddReluBlock", position=2, positions=2, joins_by="add", fed_by=("add",), feeds=("conv",),
             weights=("block.conv2.weight", "stem.weight")),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.last = nn.Conv2d(3, 4, 1), AddReluBlock(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.stem(x)))


class Overwritten(Stated):
    """The in-place call overwrites what the shortcut reads afterwards."""

    sites = (
        site("relu", module=None, inplace=True, overwrites=True, fed_by=("conv",), weights=("conv1.weight",)),
        site("act", module="act", inplace=True, overwrites=False, fed_by=("add",), feeds=("output",)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.conv2(torch.relu_(x))
        return self.act(y + x)


# Loops, helpers, inheritance


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
    """An auxiliary output with an activation of its own, in training only."""

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


# Awkward guests


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


STATED: tuple[type[Stated], ...] = (
    TwiceUsed,
    ThriceInPlace,
    TwoNames,
    AliasBlocks,
    FunctionalSpellings,
    FunctionalOptions,
    EveryModule,
    TimmOwnAutograd,
    NormAct,
    ForeignClasses,
    FreeFunction,
    SqueezeExciteNet,
    SwiGlu,
    LinearAttention,
    SigmoidHead,
    ResidualNet,
    BottleneckNet,
    PreActNet,
    InceptionNet,
    DenseNet,
    FireNet,
    ShuffleNet,
    MobileNet,
    PlainNet,
    TinyVit,
    ConvNext,
    AddReluNet,
    Overwritten,
    ListLoop,
    SharedInComprehension,
    WhileLoop,
    HeadOnLevels,
    TrainOnly,
    HelperMethod,
    SuperForward,
    DependsOnNumbers,
    Stateful,
    PlainTensors,
    HalfPrecision,
    UserHooks,
    Encoder,
)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give gains, statistics and constant parameters random values, so that no edit stays invisible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name in ("running_mean", "running_var"):
                    fresh = torch.rand(buffer.shape, generator=generator) + 0.5
                    buffer.copy_(fresh if name == "running_var" else (fresh - 1.0) * 0.2)
        for parameter in model.parameters():
            flat = parameter.detach().reshape(-1)
            if parameter.is_floating_point() and flat.numel() and bool((flat == flat[0]).all()):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return model
