"""Networks whose linear groups are stated, and the sites that were erased in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.look.example import Example
from surgery.merging.forward import Forward, forward_of
from surgery.merging.maps.values import Values
from surgery.merging.units import Unit, units_of


class Plain(nn.Module):
    """Two convolutions with norms, an activation behind each."""

    def __init__(self, padding: int = 0, between: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.act1 = between or nn.ReLU(inplace=True)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(6, 4, 3, padding=padding), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.fc(self.act2(self.bn2(self.conv2(x))).mean((2, 3)))


class NormAct(nn.BatchNorm2d):
    """A norm with its activation, as in timm."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                                     0.1, self.eps)  # fmt: skip
        return self.act(self.drop(x))


IMAGES = torch.randn(2, 3, 11, 12)


def seen(model: nn.Module, x: Tensor = IMAGES) -> tuple[Forward, list[Unit]]:
    """One forward of a model, and its units, with shapes alone."""
    forward = forward_of(model, Example.of(x, model))
    return forward, units_of(model, forward, Values(model, shapes_only=True))


class Residual(nn.Module):
    """A residual block whose padding is all on its first convolution, or as usual on each."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, skip: str = "identity", groups: int = 1, act: bool = True,
        moved: bool = True, mode: str = "zeros",
    ) -> None:  # fmt: skip
        super().__init__()
        first, second = (1 + stride, 0) if moved else (1, 1)
        more = {"groups": groups, "bias": False, "padding_mode": mode}
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, first, **more)
        self.bn1, self.act1 = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, second, **more), nn.BatchNorm2d(outputs)
        self.skip, self.stride, self.wider = skip, stride, outputs - inputs
        projection = nn.Conv2d(inputs, outputs, 1, 1 if skip == "pool" else stride, bias=False)
        if skip in ("projection", "pool"):
            pool = [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)] if skip == "pool" else []
            self.downsample = nn.Sequential(*pool, projection, nn.BatchNorm2d(outputs))
        self.act2 = nn.PReLU(outputs) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.skip in ("projection", "pool"):
            x = self.downsample(x)
        elif self.skip == "option a":
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.wider // 2,
                                                                            self.wider - self.wider // 2))  # fmt: skip
        y += x
        return self.act2(y)


class Inverted(nn.Module):
    """An inverted residual as in timm, with or without a gate, or with its activation called as a function."""

    def __init__(self, channels: int, wide: int, gate: bool = False) -> None:
        super().__init__()
        self.conv_pw, self.bn1 = nn.Conv2d(channels, wide, 1, padding=1, bias=False), NormAct(wide, nn.ReLU6())
        self.conv_dw, self.bn2 = nn.Conv2d(wide, wide, 3, groups=wide, bias=False), NormAct(wide, nn.ReLU6())
        self.se = nn.Conv2d(wide, wide, 1) if gate else None
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        if self.se is not None:
            y = y * self.se(y.mean((2, 3), keepdim=True)).sigmoid()
        return torch.relu(self.bn3(self.conv_pwl(y)) + x)
