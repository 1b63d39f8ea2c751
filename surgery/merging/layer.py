"""Layer: the module that computes a linear map, as a specification that is written to a file, and built from one."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import BadFile
from surgery.merging.maps.linear_map import SIZED, LinearMap, NotMergeable

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_MODES = ("zeros", "circular", "reflect", "replicate", SIZED)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, or without a kernel a linear layer. `mode` "sized" pads as the layer does whose place it takes."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    mode: str

    @classmethod
    def of(cls, made: LinearMap) -> tuple[Layer, LinearMap]:
        """The layer for a map, and the map in the form that it takes.

        Raises:
            NotMergeable: there is no such layer.
        """
        made = made.symmetric()
        if not made.kernel:
            made = made.regrouped(1)
        elif len(made.kernel) not in _CONVOLUTIONS:
            raise NotMergeable(f"there are no convolutions over {len(made.kernel)} axes")
        padding = tuple(low for low, _ in made.padding)
        own = (made.inputs, made.outputs, made.kernel, made.stride, padding, made.dilation, made.groups)
        return cls(*own, made.bias is not None, made.mode), made

    @classmethod
    def from_data(cls, data: Any) -> Layer:
        """The layer that a file describes.

        Raises:
            BadFile: it does not describe one.
        """
        try:
            sizes = {key: tuple(data[key]) for key in ("kernel", "stride", "padding", "dilation")}
            made = cls(**{**data, **sizes})
            numbers = [made.inputs, made.outputs, made.groups, *(size for part in sizes.values() for size in part)]
            fine = all(type(number) is int and number >= 0 for number in numbers) and type(made.bias) is bool
            fine = fine and made.mode in _MODES and len({len(part) for part in sizes.values()}) == 1
            if not fine or len(made.kernel) > 3 or made.groups < 1 or made.inputs % made.groups:
                raise ValueError
        except (TypeError, ValueError, KeyError) as error:
            raise BadFile("The file describes a merged layer that cannot be built.", asked=repr(data)[:200]) from error
        return made

    def to_data(self) -> dict[str, Any]:
        """The layer as plain data."""
        return asdict(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its weight."""
        return (self.outputs, self.inputs // self.groups, *self.kernel)

    def build(self, old: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """A new module, its weights uninitialised, to take the place of `old`."""
        if self.mode == SIZED:
            return self._like(old, dtype, device)
        if not self.kernel:
            return nn.Linear(self.inputs, self.outputs, self.bias, device="meta", dtype=dtype).to_empty(device=device)
        kind = _CONVOLUTIONS[len(self.kernel)]
        made = kind(
            self.inputs, self.outputs, self.kernel, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, bias=self.bias, padding_mode=self.mode, device="meta", dtype=dtype,
        )  # fmt: skip
        return made.to_empty(device=device)

    def _like(self, old: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
        if not isinstance(old, nn.Conv2d):
            raise BadFile("The file describes a merged layer that cannot be built.", asked=type(old).__name__)
        made = copy.deepcopy(old)
        made.in_channels, made.out_channels, made.groups = self.inputs, self.outputs, self.groups
        made.weight = nn.Parameter(torch.empty(self.shape, dtype=dtype, device=device))
        made.bias = nn.Parameter(torch.empty(self.outputs, dtype=dtype, device=device)) if self.bias else None
        return made


@torch.no_grad()
def filled(layer: nn.Module, weight: Tensor, bias: Tensor | None, learns: bool = True) -> nn.Module:
    """The layer with these values, in its own dtype."""
    layer.get_parameter("weight").copy_(weight)
    if bias is not None:
        layer.get_parameter("bias").copy_(bias)
    return layer.requires_grad_(learns)
