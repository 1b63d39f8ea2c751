"""Copies of tensors in networks: behind, around and inside parts of other tensors, in many ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.models.gates import SqueezeExcite

Copy = Callable[[Tensor], Tensor]


def _part(x: Tensor) -> Tensor:
    batch = x.new_zeros(x.shape[0], x.shape[1] + 1, *x.shape[2:])
    batch[:, : x.shape[1]].copy_(x)
    return batch[:, : x.shape[1]]


def _assigned(x: Tensor) -> Tensor:
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2, device=x.device)
    padded[:, :, 1:-1, 1:-1] = x
    return padded


def _one_by_one(x: Tensor) -> Tensor:
    batch = torch.empty_like(x)
    for k in range(len(x)):
        batch[k].copy_(x[k])
    return batch


def _through_view_of_view(x: Tensor) -> Tensor:
    buffer = torch.zeros(x.numel() + 3, device=x.device)
    buffer[3:].view(x.shape).transpose(2, 3).copy_(x.transpose(2, 3))
    return buffer[3:].view(x.shape)


def _indexed(x: Tensor) -> Tensor:
    batch = torch.zeros_like(x)
    batch[torch.arange(len(x), device=x.device)] = x
    return batch


def _put(x: Tensor) -> Tensor:
    batch = torch.zeros_like(x)
    batch.index_put_((torch.arange(len(x), device=x.device),), x)
    return batch


def _scattered(x: Tensor) -> Tensor:
    wide = torch.zeros(x.shape[0], x.shape[1] + 1, *x.shape[2:], device=x.device)
    wide[:, 1:].scatter_(0, torch.zeros_like(x, dtype=torch.long), x)
    return wide[:, 1:]


def _out(x: Tensor) -> Tensor:
    batch = torch.empty(2, *x.shape, device=x.device)
    torch.mul(x, 2.0, out=batch[1])
    return batch[1]


def _in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :1].mul_(0.5)
    y[:, 1:].add_(1.0)
    return y


def _shifted(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    y[:, :, 0] = x[:, :, -1]
    return y


WAYS: dict[str, Copy] = {
    way.__name__.strip("_"): way
    for way in (
        _part, _assigned, _one_by_one, _through_view_of_view, _indexed, _put, _scattered, _out, _in_place, _shifted,
    )
}  # fmt: skip


class Bottle(nn.Module):
    """A residual block with a squeeze-and-excite gate; `copy` is applied to all data that flows on."""

    def __init__(self, copy: Copy) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.relu, self.se, self.copy = nn.ReLU(), SqueezeExcite(4), copy

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.se(self.copy(self.bn2(self.conv2(y))))
        height, width = x.shape[2:]
        return self.relu(y[..., :height, :width] + x)


class Copying(nn.Module):
    """A stem, two blocks and a score; `copy` is applied to the image and the input of every gate."""

    def __init__(self, copy: Copy = lambda x: x) -> None:
        super().__init__()
        self.conv, self.relu, self.copy = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), copy
        self.blocks, self.fc = nn.Sequential(Bottle(copy), Bottle(copy)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.conv(self.copy(x))))
        return torch.sigmoid(self.fc(x.mean((2, 3))))


class ConcatInPlace(nn.Module):
    """Two branches joined by concat, or by writing each into its part of one tensor, the second one first."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.left, self.right, self.relu, self.written = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1), nn.ReLU(), written

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x).relu(), self.relu(self.right(x))
        if not self.written:
            return torch.cat([left, right], 1)
        both = torch.empty(x.shape[0], 6, *x.shape[2:], device=x.device)
        both[:, 4:] = right
        both[:, :4].copy_(left)
        return both
