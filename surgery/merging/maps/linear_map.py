"""Linear map: an exact description of a convolution, or of what convolutions, norms and skips compute together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]  # (low, high) per spatial axis

# The padding of timm's Conv2dSame, which depends on the size of the input. It is not part of the map: whatever is
# joined to such a map must be pointwise.
SIZED = "sized"


class NotMergeable(Exception):
    """Why linear operations have no exact form as a single one; the message is a clause without a full stop."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """An affine map from (N, in, *spatial) to (N, out, *spatial) tensors, the same at every place.

    `weight` is (out, in / groups, *kernel), float64 or, where only the shapes matter, on the meta device. A `bias` of
    None is exactly zero. Without spatial axes it is the map of a linear layer, whose channels may be on any axis.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Sizes
    padding: Padding
    dilation: Sizes
    groups: int
    mode: str = "zeros"

    @classmethod
    def diagonal(cls, scale: Tensor, shift: Tensor | None = None, stride: Sizes = ()) -> LinearMap:
        """scale x + shift, per channel, (C,) each; of every `stride`-th place."""
        weight = scale.reshape(-1, 1, *(1 for _ in stride))
        return cls(weight, shift, stride, ((0, 0),) * len(stride), (1,) * len(stride), len(scale))

    @classmethod
    def identity(cls, channels: int) -> LinearMap:
        """The identity on this number of channels."""
        return cls.diagonal(torch.ones(channels, dtype=torch.float64))

    @classmethod
    def average(cls, channels: int, kernel: Sizes, stride: Sizes, padding: Sizes, divisor: int) -> LinearMap:
        """The sum over a window of each channel, divided by `divisor`."""
        weight = torch.full((channels, 1, *kernel), 1 / divisor, dtype=torch.float64)
        return cls(weight, None, stride, tuple((side, side) for side in padding), (1,) * len(kernel), channels)

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return self.weight.shape[1] * self.groups

    @property
    def kernel(self) -> Sizes:
        """The size of the kernel, without the gaps of dilation."""
        return tuple(self.weight.shape[2:])

    @property
    def extent(self) -> Sizes:
        """The size of the window that one output reads."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def pads(self) -> bool:
        """Whether it reads outside of its input."""
        return any(low or high for low, high in self.padding)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output place reads the same place of the input, and no other."""
        return not self.pads and self.mode != SIZED and all(size == 1 for size in (*self.kernel, *self.stride))

    def size_after(self, space: Sizes) -> Sizes:
        """The spatial size of the output for an input of this spatial size."""
        sides = zip(space, self.padding, self.extent, self.stride, strict=True)
        return tuple((n + low + high - window) // step + 1 for n, (low, high), window, step in sides)

    def then(self, last: LinearMap) -> LinearMap:
        """This map, followed by another one.

        Raises:
            NotMergeable: no single map computes both, at the border or anywhere.
        """
        first, last = _with_the_same_axes(self, last)
        if first.outputs != last.inputs:
            raise NotMergeable(f"{first.outputs} channels are read as {last.inputs}")
        padding, mode = _joint_padding(first, last)
        groups = math.gcd(first.groups, last.groups)
        if groups not in (first.groups, last.groups):
            first = first.regrouped(groups)
        bias = last.bias
        if first.bias is not None:
            passed = _grouped(last.weight.reshape(*last.weight.shape[:2], -1).sum(2), first.bias, last.groups)
            bias = passed if bias is None else bias + passed
        steps = tuple(s * d for s, d in zip(first.stride, last.dilation, strict=True))
        gaps = tuple(map(_gap, first.kernel, last.kernel, first.dilation, steps))
        weight = _product(first, last, groups, steps)[spatial(slice(None, None, gap) for gap in gaps)]
        stride = tuple(a * b for a, b in zip(first.stride, last.stride, strict=True))
        return LinearMap(weight, bias, stride, padding, gaps, groups, mode)

    def plus(self, other: LinearMap) -> LinearMap:
        """The sum of two maps of the same input, such as a block and its skip.

        Raises:
            NotMergeable: they differ in their strides, or pad differently.
        """
        one, two = _with_the_same_axes(self, other)
        if (one.inputs, one.outputs) != (two.inputs, two.outputs):
            raise NotMergeable("the branches of a sum differ in their channels")
        if one.stride != two.stride:
            raise NotMergeable(f"the branches of a sum have the strides {one.stride} and {two.stride}")
        if one.pads and two.pads and one.mode != two.mode:
            raise NotMergeable(f"the branches of a sum pad with {one.mode} and {two.mode}")
        if SIZED in (one.mode, two.mode):
            raise NotMergeable("a branch of a sum pads by the size of its input")
        groups = math.gcd(one.groups, two.groups)
        one, two = one.regrouped(groups).expanded(), two.regrouped(groups).expanded()
        window = list(zip(one.padding, one.extent, two.padding, two.extent, strict=True))
        lows = [max(pad1[0], pad2[0]) for pad1, _, pad2, _ in window]
        behind = [max(size1 - pad1[0], size2 - pad2[0]) for pad1, size1, pad2, size2 in window]
        # A side may be padded by more than either branch needs, and never less, so that all sizes stay.
        highs = [
            max(pad1[1] - size1 + pad1[0], pad2[1] - size2 + pad2[0]) + reach
            for (pad1, size1, pad2, size2), reach in zip(window, behind, strict=True)
        ]
        kernel = tuple(low + reach for low, reach in zip(lows, behind, strict=True))
        weight = one.weight.new_zeros(*one.weight.shape[:2], *kernel)
        for part in (one, two):
            starts = [low - pad[0] for low, pad in zip(lows, part.padding, strict=True)]
            place = (slice(start, start + size) for start, size in zip(starts, part.extent, strict=True))
            weight[spatial(place)] += part.weight
        biases = [part.bias for part in (one, two) if part.bias is not None]
        mode = one.mode if one.pads else two.mode
        padding = tuple(zip(lows, highs, strict=True))
        bias = torch.stack(biases).sum(0) if biases else None
        return LinearMap(weight, bias, one.stride, padding, (1,) * len(kernel), groups, mode)

    def negated(self) -> LinearMap:
        """The same map with the opposite sign."""
        return replace(self, weight=-self.weight, bias=None if self.bias is None else -self.bias)

    def lifted(self, axes: int) -> LinearMap:
        """The same pointwise map, on tensors with this number of spatial axes."""
        if self.stride:
            raise NotMergeable(f"a map over {len(self.stride)} spatial axes meets one over {axes}")
        weight = self.weight.reshape(*self.weight.shape, *(1,) * axes)
        return replace(self, weight=weight, stride=(1,) * axes, padding=((0, 0),) * axes, dilation=(1,) * axes)

    def regrouped(self, groups: int) -> LinearMap:
        """The same map with fewer groups, which divide the present ones."""
        if groups == self.groups:
            return self
        each = self.groups // groups
        parts = self.weight.reshape(groups, each, -1, *self.weight.shape[1:])
        weight = parts.new_zeros(groups, each, parts.shape[2], each, *self.weight.shape[1:])
        for own in range(each):
            weight[:, own, :, own] = parts[:, own]
        return replace(self, weight=weight.reshape(self.outputs, self.inputs // groups, *self.kernel), groups=groups)

    def expanded(self) -> LinearMap:
        """The same map without dilation: its gaps are zeros of the kernel."""
        if all(gap == 1 for gap in self.dilation):
            return self
        weight = self.weight.new_zeros(*self.weight.shape[:2], *self.extent)
        weight[spatial(slice(None, None, gap) for gap in self.dilation)] = self.weight
        return replace(self, weight=weight, dilation=(1,) * len(self.dilation))

    def symmetric(self) -> LinearMap:
        """The same map with equal padding on both sides: a kernel that is padded more on one side gets zeros there."""
        if all(low == high for low, high in self.padding):
            return self
        made = self.expanded()
        before = [max(high - low, 0) for low, high in made.padding]
        kernel = [size + abs(high - low) for size, (low, high) in zip(made.kernel, made.padding, strict=True)]
        weight = made.weight.new_zeros(*made.weight.shape[:2], *kernel)
        place = (slice(start, start + size) for start, size in zip(before, made.kernel, strict=True))
        weight[spatial(place)] = made.weight
        return replace(made, weight=weight, padding=tuple((max(sides),) * 2 for sides in made.padding))


def _with_the_same_axes(one: LinearMap, two: LinearMap) -> tuple[LinearMap, LinearMap]:
    axes = max(len(one.stride), len(two.stride))
    return tuple(part if len(part.stride) == axes else part.lifted(axes) for part in (one, two))  # type: ignore[return-value]


def _joint_padding(first: LinearMap, last: LinearMap) -> tuple[Padding, str]:
    """The padding of the product.

    Raises:
        NotMergeable: `last` pads a tensor whose border the product cannot know.
    """
    if SIZED in (first.mode, last.mode) and not (first if last.mode == SIZED else last).is_pointwise:
        raise NotMergeable("its padding depends on the size of the input")
    if not last.pads and last.mode != SIZED:
        return first.padding, first.mode
    if last.mode == SIZED and first.bias is not None:
        raise NotMergeable("its padding depends on the size of the input, and there is a bias in front of it")
    shown = "x".join(str(max(sides)) for sides in last.padding)
    if last.mode in ("zeros", SIZED):
        if first.bias is not None:
            raise NotMergeable(
                f"the second convolution pads by {shown} behind a bias: its border has no exact form; "
                "move the padding first"
            )
        if first.pads and first.mode != "zeros":
            raise NotMergeable(f"the second convolution pads by {shown} with zeros, the first by {first.mode}")
        for (low, high), (own_low, own_high), window, step in zip(
            last.padding, first.padding, first.extent, first.stride, strict=True
        ):
            # Beyond its border the first map must see nothing but zeros, so that it gives the zeros that are padded.
            if (low and step + own_low < window) or (high and own_high < window - 1):
                raise NotMergeable(
                    f"the second convolution pads by {shown} behind a kernel of {window}: its border has no exact "
                    "form; move the padding first"
                )
        return _sum_of_padding(first, last), last.mode
    if first.is_pointwise:
        return last.padding, last.mode
    keeps = all(low + high == w - 1 for (low, high), w in zip(first.padding, first.extent, strict=True))
    around = last.mode == "circular" and (first.mode == "circular" or not first.pads)
    if around and keeps and set(first.stride) <= {1}:
        return _sum_of_padding(first, last), "circular"
    raise NotMergeable(f"the second convolution pads by {shown} with {last.mode}: its border has no exact form")


def _sum_of_padding(first: LinearMap, last: LinearMap) -> Padding:
    """p1 + s1 p2, on each side."""
    sides = zip(first.padding, first.stride, last.padding, strict=True)
    return tuple((own[0] + step * more[0], own[1] + step * more[1]) for own, step, more in sides)


def _gap(own: int, taps: int, dilation: int, step: int) -> int:
    """The dilation of the product of `own` taps with this dilation and of taps spread by `step`."""
    if own > 1:
        return dilation if taps == 1 else 1
    return step if taps > 1 else 1


def _product(first: LinearMap, last: LinearMap, groups: int, steps: Sizes) -> Tensor:
    """The kernel of the product, without dilation: each tap of `last` reads a shifted kernel of `first`.

    Of the groups of both, one number divides the other; `groups` is the smaller one.
    """
    many = max(first.groups, last.groups)
    rows, kernel, extent = last.outputs // last.groups, first.kernel, first.extent
    right = first.weight.reshape(many, first.outputs // many, -1)
    size = [window + step * (taps - 1) for window, step, taps in zip(extent, steps, last.kernel, strict=True)]
    made = first.weight.new_zeros(last.outputs, first.inputs // groups, *size)
    for tap in product(*map(range, last.kernel)):
        left = last.weight[spatial(tap)].reshape(last.groups, rows, -1).transpose(0, 1)
        part = left.reshape(rows, many, -1).transpose(0, 1) @ right  # (many, rows, in / groups of first * kernel)
        part = part.reshape(many, rows, -1, *kernel).transpose(0, 1).reshape(rows, last.groups, -1, *kernel)
        starts = [step * place for step, place in zip(steps, tap, strict=True)]
        place = (slice(a, a + e, d) for a, e, d in zip(starts, extent, first.dilation, strict=True))
        made[spatial(place)] += part.transpose(0, 1).reshape(last.outputs, -1, *kernel)
    return made


def spatial(places: Iterable[int | slice]) -> Any:
    """The index of places on the spatial axes."""
    return (..., *places)


def _grouped(weight: Tensor, values: Tensor, groups: int) -> Tensor:
    """The product of a grouped matrix (out, in / groups) with values (in,)."""
    return (weight.reshape(groups, -1, weight.shape[1]) @ values.reshape(groups, -1, 1)).flatten()
