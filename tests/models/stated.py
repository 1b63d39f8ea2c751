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

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

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
    """A batch of two images, always the same."""
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


class Stated(nn.Module):
    """A model that states its activation calls."""

    sites: ClassVar[tuple[Facts, ...]] = ()
    example: ClassVar[Any] = picture()


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
