"""Values: the tensors of a model, as maps are made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.merging.maps.linear_map import LinearMap

FLOAT = torch.float64


class Values:
    """The parameters and buffers of a model by name, in float64; matrices and kernels on demand as shapes only."""

    def __init__(self, model: nn.Module, *, shapes_only: bool = False) -> None:
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self.tensors = dict(named)
        self.shapes_only = shapes_only

    def __call__(self, name: str) -> Tensor:
        """The values of a tensor of the model, on the CPU."""
        tensor = self.tensors[name].detach()
        if tensor.is_meta or (self.shapes_only and tensor.dim() > 1):
            return torch.empty(tensor.shape, dtype=FLOAT, device="meta")
        return tensor.to("cpu", FLOAT)

    def vector(self, name: str | None, size: int, default: float) -> Tensor:
        """A vector of the model; one value for all, if there is no name."""
        return torch.full((size,), default, dtype=FLOAT) if name is None else self(name).flatten()

    def finished(self, made: LinearMap) -> LinearMap:
        """The map without a bias that is zero; with shapes alone, where only those are wanted."""
        bias = made.bias
        if bias is not None and not bias.is_meta and not bool(bias.any()):
            bias = None
        weight = made.weight
        if self.shapes_only:
            weight, bias = weight.to("meta"), None if bias is None else bias.to("meta")
        return LinearMap(weight, bias, made.stride, made.padding, made.dilation, made.groups, made.mode)
