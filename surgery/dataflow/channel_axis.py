"""Channel axis: which axis of a tensor holds the channels, propagated through one operation."""

from __future__ import annotations

from math import prod
from typing import Any

Shape = tuple[int, ...]

ROW_MAJOR = {
    "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "squeeze_", "unsqueeze",
    "unsqueeze_", "contiguous", "clone", "detach",
}  # fmt: skip
PERMUTING = {
    "permute", "transpose", "transpose_", "swapaxes", "swapdims", "t", "movedim", "moveaxis", "T", "H", "mT", "mH",
    "adjoint",
}  # fmt: skip


def channel_axis(
    kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], before: Shape, axis: int | None, after: Shape
) -> int | None:
    """The channel axis of the result of an operation; None where it is unknown.

    `axis` is the channel axis of its first input, whose shape is `before`; `after` is the shape of the result.
    """
    if kind == "conv":
        spatial = {"1": 1, "2": 2, "3": 3}.get(next((c for c in name if c.isdigit()), ""), 2)
        return len(after) - spatial - 1
    if kind == "linear":
        # With the weights as the left factor of a matrix product, the channels are the rows.
        rows = name in ("matmul", "__matmul__", "bmm", "mm") and tuple(args[0].shape) != before and len(after) > 1
        return len(after) - (2 if rows else 1)
    if kind == "norm":
        if name in ("layer_norm", "rms_norm"):
            normalized = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
            return len(after) - 1 if len(normalized) == 1 else axis
        return 1 if name in ("batch_norm", "group_norm", "instance_norm") else axis
    if axis is None:
        return None
    if name in PERMUTING:
        order = permutation(name, args, kwargs, len(before))
        return None if order is None else order.index(axis)
    if name in ROW_MAJOR:
        return _reshaped(before, axis, after)
    if len(after) == len(before):
        return axis
    if name == "stack":
        place: int = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(after)
        return axis + (place <= axis)
    if name in ("mean", "sum", "amax", "max", "__getitem__", "select"):
        return _same_size(before, axis, after)
    return axis - len(before) + len(after) if len(after) > len(before) else _same_size(before, axis, after)


def permutation(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], count: int) -> list[int] | None:
    """For each axis of a permuted result, the axis it was before; None where it is unknown."""
    order = list(range(count))
    if name == "permute":
        dims = kwargs.get("dims", args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:])
        order = [dim % count for dim in dims]
    elif name in ("movedim", "moveaxis"):
        source, target = args[1:3] if len(args) > 2 else (kwargs["source"], kwargs["destination"])
        if not isinstance(source, int) or not isinstance(target, int):
            return None
        order.insert(target % count, order.pop(source % count))
    elif name == "T":
        order.reverse()
    else:
        last = (count - 2, count - 1)
        first, second = last if name in ("t", "H", "mT", "mH", "adjoint") else (*args[1:3], *kwargs.values())[:2]
        first, second = first % count, second % count
        order[first], order[second] = order[second], order[first]
    return order


def _reshaped(before: Shape, axis: int, after: Shape) -> int | None:
    """The channel axis after a reshape: the axis of the same size with as many elements in front (row-major)."""
    front = prod(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and prod(after[:place]) == front:
            return place
    return _same_size(before, axis, after)


def _same_size(before: Shape, axis: int, after: Shape) -> int | None:
    places = [place for place, size in enumerate(after) if size == before[axis]]
    return places[0] if len(places) == 1 else None
