"""Memory: what a forward pass keeps for the backward pass."""

import torch
from torch import Tensor, nn


def bytes_kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass of `x` keeps for the backward pass, each tensor once, parameters left out."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    own = {one.untyped_storage().data_ptr() for one in module.parameters()}
    return sum(one.untyped_storage().nbytes() for at, one in kept.items() if at not in own)
