"""Known modules: those that are taken as one operation, by their class and not by what they call."""

from __future__ import annotations

from torch import Tensor, nn

from surgery.activations.functions.affine import Affine
from surgery.dataflow.operations import activation_of_module
from surgery.merging.maps.linear_map import SIZED, LinearMap
from surgery.merging.maps.operations import Linear, of_norm
from surgery.merging.maps.values import Values

# Batch norms without parameters, whose statistics and weights are all buffers.
_FROZEN = ("FrozenBatchNorm2d",)


def is_known(module: nn.Module) -> bool:
    """Whether a module is known by its class: what it calls does not matter."""
    if isinstance(module, nn.Identity):
        return False
    named = type(module).__name__ in _FROZEN or _is_sized(module)
    return isinstance(module, Affine) or (named and not module._modules) or activation_of_module(module) is not None


def operation_of_module(module: nn.Module, path: str, given: Tensor) -> Linear | None:
    """The map of a module that is known by its class, not by what it calls; None for other modules."""
    at = f"{path}." if path else ""
    if isinstance(module, Affine):
        return _affine_module(module, at, given)
    if type(module).__name__ in _FROZEN and not module._modules:
        names = [f"{at}{name}" for name in ("running_mean", "running_var", "weight", "bias")]
        return of_norm(names, float(module.eps))  # type: ignore[arg-type]
    if isinstance(module, nn.Conv2d) and _is_sized(module):
        return _convolution_sized(module, at)
    return None


def _is_sized(module: nn.Module) -> bool:
    """Whether it is a convolution of timm that pads by the size of its input."""
    return type(module).__name__ == "Conv2dSame" and isinstance(module, nn.Conv2d)


def _affine_module(module: Affine, at: str, given: Tensor) -> Linear:
    single = len(module.weight) == 1

    def build(values: Values, channels: int) -> LinearMap:
        slope, intercept = values(f"{at}weight"), values(f"{at}bias")
        return LinearMap.diagonal(slope.expand(channels), intercept.expand(channels))

    axis = None if single else module.axis % given.dim()
    return Linear((0,), build, axis, weights=(f"{at}weight", f"{at}bias"))


def _convolution_sized(module: nn.Conv2d, at: str) -> Linear | None:
    if set(module._parameters) != {"weight", "bias"} or module._parameters["weight"] is None:
        return None
    names = [f"{at}weight", *([f"{at}bias"] if module.bias is not None else [])]
    stride, dilation = tuple(module.stride), tuple(module.dilation)

    def build(values: Values, _: int) -> LinearMap:
        shift = values(names[1]) if len(names) > 1 else None
        return LinearMap(values(names[0]), shift, stride, ((0, 0), (0, 0)), dilation, module.groups, SIZED)

    return Linear((0,), build, 1, heavy=True, weights=tuple(names))
