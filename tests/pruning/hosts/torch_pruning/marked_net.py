"""A network whose parameters can be distinguished by marks, a pruner of it, and a training."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual addition, a depthwise convolution, a concatenation of two widths, and a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.body = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 10, 1)
        self.last = nn.Conv2d(16, 4, 3, stride=4, padding=1)
        self.head = nn.Linear(4 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.body(x))
        x = self.relu(self.deep(x))
        x = torch.cat([self.relu(self.left(x)), self.relu(self.right(x))], 1)
        return self.head(self.relu(self.last(x)).flatten(1))  # type: ignore[no-any-return]


def pruner_of(model: nn.Module, images: Tensor = IMAGES, head: str = "head", **options: Any) -> Any:
    ignored = [model.get_submodule(head), *options.pop("ignored_layers", [])]
    importance = options.pop("importance", tp.importance.GroupMagnitudeImportance())
    made = tp.pruner.BasePruner(
        model, images, importance, **{"pruning_ratio": 0.5} | options, ignored_layers=ignored
    )  # fmt: skip
    model.train()
    return made


def mark(model: nn.Module, *names: str) -> dict[str, dict[float, int]]:
    """Give every entry of every weight, or of those named, a unique number; returns the positions of the numbers."""
    marks = {}
    with torch.no_grad():
        for name, param in model.named_parameters():
            if names and name not in names:
                continue
            order = torch.randperm(param.numel(), generator=torch.Generator().manual_seed(len(name)))
            param.copy_((order + 1.0).reshape(param.shape) / 1024)
            marks[name] = {number: place for place, number in enumerate(param.flatten().tolist())}
            assert len(marks[name]) == param.numel()
    return marks


def found(model: nn.Module, marks: dict[str, dict[float, int]]) -> dict[str, Tensor]:
    """The original positions of the entries of each weight, by their numbers."""
    return {
        name: torch.tensor([marks[name][number] for number in param.flatten().tolist()]).reshape(param.shape)
        for name, param in model.named_parameters()
        if name in marks
    }


class Slopes(nn.Module):
    """Learned slopes behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.second, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.slopes(self.first(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2, images: Tensor = IMAGES) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


# Sites that a layer follows: behind a table shared by all channels, Torch-Pruning cannot count these.
APART = ["relu 1/6", "relu 2/6", "relu 3/6"]
