"""Memory: the tensors that a forward pass saves for the backward pass."""

import torch
from torch import Tensor, nn


def bytes_kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass of `x` saves for the backward pass, each tensor once, without parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    own = {param.untyped_storage().data_ptr() for param in module.parameters()}
    return sum(storage.untyped_storage().nbytes() for at, storage in kept.items() if at not in own)
