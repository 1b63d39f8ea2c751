"""Attention with its MLP, and a block with channels last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.calls import Mlp
from tests.models.stated import Stated, site


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
