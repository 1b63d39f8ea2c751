"""Small networks with random weights, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.repair.batches import Batch
from tests.surgery.small_net import SmallNet


def small_net(seed: int = 0) -> nn.Module:
    """A stem and two residual blocks that can be dropped, each with two calls of one ReLU; every edit is seen."""
    return with_random_weights(SmallNet(), seed).eval()


def with_random_weights(model: nn.Module, seed: int) -> nn.Module:
    """The model with weights that leave no activation idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.5 * torch.randn(param.shape, generator=generator))
    return model


def images(count: int = 6, seed: int = 0) -> Tensor:
    """Noise of 8 x 8 pixels."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches(labelled: bool = False, seed: int = 0) -> list[tuple[Tensor, Tensor] | Tensor]:
    """Three batches, with classes in turn if they are `labelled`."""
    labels = torch.arange(6) % 3
    return [(images(seed=seed + k), labels) if labelled else images(seed=seed + k) for k in range(3)]


def as_batches(seed: int = 0) -> list[Batch]:
    """The same as the library holds them."""
    return [Batch(images(seed=seed + k), torch.arange(6) % 3) for k in range(3)]
