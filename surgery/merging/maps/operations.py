"""Operations: which calls of torch are affine maps of one tensor, per channel or by a kernel, and which maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.merging.maps.linear_map import LinearMap
from surgery.merging.maps.values import FLOAT, Values

# Builds the map for a tensor with this number of channels.
Build = Callable[[Values, int], LinearMap]


@dataclass(frozen=True, slots=True)
class Linear:
    """One affine operation: on which tensor, by its position among the arguments, along which axis of channels.

    `axis` is None if it treats all elements alike. A sum has two sources and no map; `sign` is that of the second.
    `heavy` operations have a weight of their own, which a merged layer may take the place of.
    """

    sources: tuple[int, ...]
    build: Build | None = None
    axis: int | None = None
    sign: int = 1
    heavy: bool = False
    weights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call, with the names of those that are parameters or buffers of the model."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: Mapping[int, str]  # by id
    shape: tuple[int, ...]  # of the result
    depends: Callable[[Any], bool]  # whether a value depends on the input of the model

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def name_of(self, value: Any) -> str | None:
        """The name of a parameter or buffer, None for other values."""
        return self.names.get(id(value))


def linear_operation(name: str, call: Arguments) -> Linear | None:
    """The affine map that a call of the torch function of this name computes; None if it is not known to be one."""
    rule = _RULES.get(name.strip("_"))
    return rule(call) if rule is not None and isinstance(call.get(0, "input"), Tensor | int | float) else None


def why_not_linear(name: str, kind: str, call: Arguments) -> str:
    """Why a call of a function of this name and kind is not taken as an affine map."""
    plain = name.strip("_")
    if plain in ("conv1d", "conv2d", "conv3d", "linear") and call.name_of(call.get(1, "weight")) is None:
        return "its weight is computed (a mask, a norm or a parametrisation)"
    if plain == "batch_norm" and call.get(5, "training", False):
        return "it normalises by its batch"
    if plain in ("mul", "imul", "multiply") and all(map(call.depends, (call.get(0, "input"), call.get(1, "other")))):
        return "a gate multiplies it by another tensor"
    if plain in _RULES:
        return f"{plain} has no exact form here"
    return in_the_way(name, kind)


def in_the_way(name: str, kind: str) -> str:
    """That a function of this name and kind cannot be part of a layer, and whether that is because it is not linear."""
    plain = name.strip("_")
    return f"{plain} is not linear" if kind in _NONLINEAR or "max" in plain else f"a layer cannot contain {plain}"


def _convolution(call: Arguments) -> Linear | None:
    given, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    path, bias_path = call.name_of(weight), call.name_of(bias)
    if path is None or (bias is not None and bias_path is None) or given.dim() != weight.dim():
        return None
    axes = weight.dim() - 2
    stride, dilation = (_sizes(call.get(place, key, 1), axes) for place, key in ((3, "stride"), (5, "dilation")))
    asked, groups = call.get(4, "padding", 0), int(call.get(6, "groups", 1))
    kernel = weight.shape[2:]
    if asked == "same":
        total = [gap * (size - 1) for gap, size in zip(dilation, kernel, strict=True)]
        padding = tuple((both // 2, both - both // 2) for both in total)
    else:
        padding = tuple((side, side) for side in _sizes(0 if asked == "valid" else asked, axes))

    def build(values: Values, _: int) -> LinearMap:
        shift = None if bias_path is None else values(bias_path)
        return LinearMap(values(path), shift, stride, padding, dilation, groups)

    return Linear((0,), build, 1, heavy=True, weights=_named(path, bias_path))


def _linear(call: Arguments) -> Linear | None:
    weight, bias = call.get(1, "weight"), call.get(2, "bias")
    path, bias_path = call.name_of(weight), call.name_of(bias)
    if path is None or weight.dim() != 2 or (bias is not None and bias_path is None):
        return None

    def build(values: Values, _: int) -> LinearMap:
        return LinearMap(values(path), None if bias_path is None else values(bias_path), (), (), (), 1)

    return Linear((0,), build, len(call.shape) - 1, heavy=True, weights=_named(path, bias_path))


def _batch_norm(call: Arguments) -> Linear | None:
    mean, variance, weight, bias = (call.get(place, key) for place, key in enumerate(
        ("running_mean", "running_var", "weight", "bias"), 1))  # fmt: skip
    names = [call.name_of(value) for value in (mean, variance, weight, bias)]
    unnamed = [value for value, name in zip((mean, variance, weight, bias), names, strict=True)
               if value is not None and name is None]  # fmt: skip
    if call.get(5, "training", False) or names[0] is None or names[1] is None or unnamed:
        return None
    return of_norm(names, float(call.get(7, "eps", 1e-5)))


def of_norm(names: Sequence[str | None], epsilon: float) -> Linear:
    """A batch norm, by the names of its running mean, running variance, weight and bias, the last two optional."""

    def build(values: Values, channels: int) -> LinearMap:
        mean, variance, weight, bias = (
            values.vector(name, channels, default) for name, default in zip(names, (0, 1, 1, 0), strict=True)
        )
        scale = weight / (variance + epsilon).sqrt()
        return LinearMap.diagonal(scale, bias - mean * scale)

    return Linear((0,), build, 1, weights=_named(*names))


def _sum(call: Arguments, sign: int = 1, *, swapped: bool = False) -> Linear | None:
    """A sum, or with `sign` -1 the first minus the second; `swapped`: the second minus the first."""
    one, two = call.get(0, "input"), call.get(1, "other")
    if call.get(2, "alpha", 1) != 1 or (swapped and call.depends(two)):
        return None
    if call.depends(one) and call.depends(two):
        same = tuple(one.shape) == tuple(two.shape) == call.shape
        return Linear((0, 1), None, sign=sign) if same else None
    place, constant = (0, two) if call.depends(one) else (1, one)
    if not isinstance(constant, int | float | Tensor) or tuple(call.args[place].shape) != call.shape:
        return None
    known = _per_channel(call, constant)
    if known is None:
        return None
    path, axis = known

    def build(values: Values, channels: int) -> LinearMap:
        shift = values.vector(path, channels, 0.0 if path else float(constant))
        scale = torch.ones(channels, dtype=FLOAT)
        if sign < 0:
            scale, shift = (scale, -shift) if place == 0 and not swapped else (-scale, shift)
        return LinearMap.diagonal(scale, shift.expand(channels))

    return Linear((place,), build, axis, weights=_named(path))


def _product(call: Arguments, *, divided: bool = False) -> Linear | None:
    one, two = call.get(0, "input"), call.get(1, "other")
    if call.depends(one) and call.depends(two):
        return None
    place, constant = (0, two) if call.depends(one) else (1, one)
    if (divided and place) or call.kwargs.get("rounding_mode") or not isinstance(constant, int | float | Tensor):
        return None
    known = _per_channel(call, constant)
    if known is None or tuple(call.args[place].shape) != call.shape:
        return None
    path, axis = known

    def build(values: Values, channels: int) -> LinearMap:
        scale = values.vector(path, channels, 0.0 if path else float(constant)).expand(channels)
        return LinearMap.diagonal(1 / scale if divided else scale)

    return Linear((place,), build, axis, weights=_named(path))


def _per_channel(call: Arguments, constant: int | float | Tensor) -> tuple[str | None, int | None] | None:
    """The name and the axis of a constant that has one value per channel, or one for all; None for others."""
    if not isinstance(constant, Tensor):
        return None, None
    path = call.name_of(constant)
    long = [axis - constant.dim() for axis, size in enumerate(constant.shape) if size > 1]
    if path is None or len(long) > 1 or constant.dim() > len(call.shape):
        return None
    return path, long[0] + len(call.shape) if long else None


def _average(call: Arguments) -> Linear | None:
    given = call.get(0, "input")
    kernel = call.get(1, "kernel_size")
    axes = given.dim() - 2
    kernel = _sizes(kernel, axes)
    stride = _sizes(call.get(2, "stride") or kernel, axes)
    padding = _sizes(call.get(3, "padding", 0), axes)
    divisor = call.get(6, "divisor_override") or math.prod(kernel)
    if any(padding) and not call.get(5, "count_include_pad", True):
        return None

    def build(_: Values, channels: int) -> LinearMap:
        return LinearMap.average(channels, kernel, stride, padding, divisor)

    floor = LinearMap.average(1, kernel, stride, padding, divisor).size_after(tuple(given.shape[2:]))
    return Linear((0,), build, 1) if floor == call.shape[2:] else None  # windows may be cut at the border


def _pad(call: Arguments) -> Linear | None:
    given, sides = call.get(0, "input"), list(call.get(1, "pad", ()))
    mode, value = call.get(2, "mode", "constant"), call.get(3, "value")
    axes = given.dim() - 2
    if min(sides, default=0) < 0 or value or axes < 1 or not all(type(side) is int for side in sides):
        return None
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    pairs = [(0, 0)] * (given.dim() - len(pairs)) + pairs[::-1]
    if any(pairs[0]) or (any(pairs[1]) and mode != "constant"):
        return None
    padding, (below, above) = tuple(pairs[2:]), pairs[1]

    def build(_: Values, channels: int) -> LinearMap:
        weight = torch.zeros(channels + below + above, channels, *(1,) * axes, dtype=FLOAT)
        if not below and not above:
            weight, groups = torch.ones(channels, 1, *(1,) * axes, dtype=FLOAT), channels
        else:
            weight[range(below, below + channels), range(channels)] = 1.0
            groups = 1
        ones = (1,) * axes
        return LinearMap(weight, None, ones, padding, ones, groups, "zeros" if mode == "constant" else mode)

    return Linear((0,), build, 1)


def _strided(call: Arguments) -> Linear | None:
    """Every second place: `x[:, :, ::2, ::2]`."""
    given, asked = call.args[0], call.args[1]
    asked = asked if isinstance(asked, tuple) else (asked,)
    if not all(isinstance(part, slice) or part is Ellipsis for part in asked) or given.dim() < 3:
        return None
    where = next((place for place, part in enumerate(asked) if part is Ellipsis), None)
    if where is not None:
        asked = asked[:where] + (slice(None),) * (given.dim() - len(asked) + 1) + asked[where + 1 :]
    steps = [*asked, *(slice(None),) * (given.dim() - len(asked))]
    whole = [part.start in (None, 0) and part.stop is None and (part.step or 1) > 0 for part in steps]
    if not all(whole) or any((part.step or 1) != 1 for part in steps[:2]):
        return None
    stride = tuple(part.step or 1 for part in steps[2:])
    return Linear((0,), lambda _, channels: LinearMap.diagonal(torch.ones(channels, dtype=FLOAT), None, stride), 1)


def _same(call: Arguments) -> Linear | None:
    """A copy, also in another layout; not in another dtype."""
    given = call.get(0, "input")
    others = [value for value in (*call.args[1:], *call.kwargs.values()) if isinstance(value, torch.dtype | Tensor)]
    same = tuple(given.shape) == call.shape and all(
        (other if isinstance(other, torch.dtype) else other.dtype) == given.dtype for other in others
    )
    return Linear((0,), _identity) if same else None


def _dropout(call: Arguments) -> Linear | None:
    return None if call.get(2, "training", True) else Linear((0,), _identity)


def _negative(_: Arguments) -> Linear:
    return Linear((0,), lambda _, channels: LinearMap.diagonal(-torch.ones(channels, dtype=FLOAT)))


def _identity(_: Values, channels: int) -> LinearMap:
    return LinearMap.diagonal(torch.ones(channels, dtype=FLOAT))


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(size) for size in (sizes if len(sizes) == axes else sizes * axes))


def _named(*names: str | None) -> tuple[str, ...]:
    return tuple(name for name in names if name is not None)


def is_copy(operation: Linear) -> bool:
    """Whether an operation passes values on unchanged."""
    return operation.build is _identity


_NONLINEAR = ("activation", "norm", "softmax", "attention")
_RULES: dict[str, Callable[[Arguments], Linear | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("add", "iadd", "radd"), _sum),
    **dict.fromkeys(("sub", "isub"), lambda call: _sum(call, -1)),
    "rsub": lambda call: _sum(call, -1, swapped=True),
    **dict.fromkeys(("mul", "imul", "rmul", "multiply"), _product),
    **dict.fromkeys(("div", "itruediv", "truediv", "true_divide"), lambda call: _product(call, divided=True)),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average),
    **dict.fromkeys(("clone", "contiguous", "to", "type_as", "alias"), _same),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"), _dropout),
    "linear": _linear, "batch_norm": _batch_norm, "pad": _pad, "getitem": _strided, "neg": _negative,
}  # fmt: skip
