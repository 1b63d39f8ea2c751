"""Gates and heads: squeeze-and-excite, gated units, linear attention, a squashing head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.models.stated import Stated, site


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
    """A squashing function at the very end is the head; the ReLU before it is not."""

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
