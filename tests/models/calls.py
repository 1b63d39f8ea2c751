"""One module called several times, functions, methods, and the activations of other libraries."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.layers.activations_me import HardSigmoidMe, HardSwishMe, MishMe, SwishMe
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from tests.models.stated import Stated, site


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
    """Functional calls with options; softmax and threshold are not on the list."""

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
    """Every activation module of torch's closed list in sequence; softmax is not one."""

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
    """timm's activations with a custom backward, which call no torch function."""

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
    """The class that most CLIP implementations contain."""

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
    """User-defined activation classes: two by their well-known names, one as a subclass."""

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
    """An activation in a free function."""
    return F.silu(x)


class FreeFunction(Stated):
    """The call is in a free function, and belongs to the module that calls it."""

    sites = (site("silu", "silu", module=None, fed_by=("conv",), feeds=("conv",), owner_kind="FreeFunction"),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(free_swish(self.conv1(x)))
