"""A network of one convolution, one norm and one linear layer, batches for it, and masks to hold on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks


def tiny_net(seed: int = 0) -> nn.Sequential:
    """Two prunable weights, `0.weight` (4, 2, 3, 3) and `4.weight` (3, 64), both with biases; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def batch(step: int) -> Tensor:
    """Four pictures for `tiny_net`, others at every step."""
    return torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """A loss that moves every weight of the model."""
    loss: Tensor = (model(batch(step)) - 1).square().mean()
    return loss


def random_masks(model: nn.Module, share: float = 0.5, seed: int = 1) -> Masks:
    """Random masks that keep each weight with probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    return Masks(
        {name: torch.rand(mask.shape, generator=generator) < share for name, mask in Masks.full(model).items()}
    )


def weights(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masked weights of a model, as they are."""
    named = dict(model.named_parameters())
    return {name: named[name].detach() for name in masks}


def zero_counts(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """How many zeros each masked weight has."""
    return {name: int((weight == 0).sum()) for name, weight in weights(model, masks).items()}


def pruned_counts(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """How many zeros there should be."""
    return {name: int((~mask).sum()) for name, mask in masks.items()}


def assert_held(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Exactly the weights that the masks prune are zero."""
    for name, weight in weights(model, masks).items():
        assert torch.equal(weight != 0, masks[name]), f"{name}: {zero_counts(model, masks)} {pruned_counts(masks)}"
