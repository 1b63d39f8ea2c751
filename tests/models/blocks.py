"""Basic modules of convolutional networks, as small as possible."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from tests.models.stated import Facts, Stated, site


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
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; the input is concatenated with the result."""

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
    """A small VGG: two stages between pools, then a classifier of linear layers."""

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
