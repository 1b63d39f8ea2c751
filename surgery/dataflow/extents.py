"""Extents: which sizes of a tensor the network fixes and which depend on the example, for one operation at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from surgery.dataflow.channel_axis import PERMUTING, ROW_MAJOR, Shape, permutation


class Factor(NamedTuple):
    """A factor of an extent. It is `free` if its size depends on the example: batch, height, width, tokens."""

    size: int
    free: bool


# The factors of the extent of an axis, in row-major order; empty where it is 1.
Extent = tuple[Factor, ...]
Extents = tuple[Extent, ...]

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_REDUCING = (
    "mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "norm", "logsumexp", "median", "argmax",
    "argmin", "select", "unbind",
)  # fmt: skip
# All operands of these have the extents of the result; for the others, only the first one has.
_EVEN = ("add", "mul", "scale", "concat", "activation", "softmax", "other", "paste")


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of an operation: data, whose extents may be known; a parameter or buffer; or a constant."""

    shape: Shape
    data: bool
    weight: bool = False
    extents: Extents | None = None


def is_free(extent: Extent) -> bool:
    """True if the size depends on the example."""
    return any(factor.free for factor in extent)


def extents_after(
    kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Operand], axis: int | None,
    after: Shape,
) -> Extents | None:  # fmt: skip
    """The extents of the result of an operation; None where they are unknown.

    Those of the model's input are unknown. The first weights fix one extent of the data they are applied to; the others
    are free, until weights fix them. `axis` is the channel axis of the result, `after` its shape.
    """
    data = [operand for operand in operands if operand.data]
    if not data:
        return None
    fixed = set(_fixed(kind, name, args, kwargs, operands, axis, after))
    made = _followed(kind, name, args, kwargs, data, after)
    if made is None:
        made = tuple(_extent(size, True) for size in after) if fixed else None
    if made is None:
        return None
    return tuple(_extent(after[k], False) if k in fixed else extent for k, extent in enumerate(made))


def _extent(size: int, free: bool) -> Extent:
    return (Factor(size, free),) if size > 1 else ()


def _fixed(
    kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Operand], axis: int | None,
    after: Shape,
) -> Iterator[int]:  # fmt: skip
    """The axes of a result whose extents are fixed by weights or by numbers in the code."""
    weights = [operand.shape for operand in operands if operand.weight]
    last = len(after) - 1
    if kind in ("conv", "linear"):
        # A kernel computed from data may be per sample, with the batch folded into the channels.
        own = name == "deform_conv2d" or sum(operand.data for operand in operands) < 2
        yield from (axis,) if axis is not None and own else ()
    elif name.startswith("adaptive"):
        # The code may have read the size from another tensor, but an explicit size is nearly always meant as fixed.
        places = range(len(after) - int(next(c for c in name if c.isdigit())), len(after))
        size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
        sizes = size if isinstance(size, tuple | list) else [size] * len(places)
        yield from (place for place, asked in zip(places, sizes, strict=False) if asked is not None)
    elif weights and kind == "norm":
        # A layer norm's weights have the normalised shape; those of other norms are per channel.
        yield from range(len(after) - len(weights[0]), len(after)) if name in ("layer_norm", "rms_norm") else (1,)
    elif weights and name in ("prelu", "_prelu_kernel"):
        yield from (min(1, last),) if prod(weights[0]) > 1 else ()
    elif weights and (kind == "attention" or name in _RECURRENT):
        yield last
    elif kind in _EVEN:
        for shape in weights:
            front = len(after) - len(shape)
            yield from (front + k for k, size in enumerate(shape) if front >= 0 and size == after[front + k] > 1)


def _followed(
    kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], data: list[Operand], after: Shape
) -> Extents | None:
    """The extents that follow from the operands; None where they are unknown."""
    first, before = data[0], data[0].extents
    if before is not None and name in PERMUTING:
        order = permutation(name, args, kwargs, len(before))
        return None if order is None else tuple(before[k] for k in order)
    if before is not None and name in ROW_MAJOR:
        return _regrouped(before, after)
    if name in _REDUCING and len(after) < len(first.shape):
        return before and _reduced(before, _dims(name, args, kwargs), after)
    if name == "__getitem__" and before is not None and len(args) > 1 and _plain(args[1]):
        return _indexed(before, args[1], after)
    if name == "stack":
        place = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(after)
        rest = _combined(kind, data, (*after[:place], *after[place + 1 :]))
        return rest and (*rest[:place], _extent(after[place], False), *rest[place:])
    if kind == "matmul":
        return _product(data, after) if name != "einsum" else None
    return _combined(kind, data if kind in _EVEN else data[:1], after)


def _combined(kind: str, data: list[Operand], after: Shape) -> Extents | None:
    """Each extent is that of an operand, preferably one where it is fixed, or combined from several."""
    known = [operand.extents for operand in data if operand.extents is not None and len(operand.extents) <= len(after)]
    if not any(len(extents) == len(after) for extents in known):
        return None
    found = []
    for place, size in enumerate(after):
        there = [extents[place - len(after)] for extents in known if len(after) - place <= len(extents)]
        same = sorted((extent for extent in there if _size(extent) == size), key=is_free)
        # An image is resized to a size computed from its own, or from that of another tensor.
        resized = kind == "resize" and place > 1
        found.append(same[0] if same else _extent(size, resized or any(map(is_free, there))))
    return tuple(found)


def _regrouped(before: Extents, after: Shape) -> Extents | None:
    """The extents after a reshape: axes are split between factors, and factors where they divide."""
    left = [factor for extent in reversed(before) for factor in reversed(extent)]
    if prod(factor.size for factor in left) != prod(after):
        return None
    found = []
    for size in after:
        taken, wanted = list[Factor](), size
        while wanted > 1:
            factor = left.pop()
            while (
                wanted % factor.size and factor.size % wanted
            ):  # the axis ends inside a factor: merge it with the next
                inner = left.pop()
                factor = Factor(factor.size * inner.size, factor.free or inner.free)
            part = min(wanted, factor.size)
            taken.append(Factor(part, factor.free))
            left += [Factor(factor.size // part, factor.free)] if factor.size > part else []
            wanted //= part
        found.append(tuple(taken))
    return tuple(found)


def _reduced(before: Extents, dims: Any, after: Shape) -> Extents | None:
    given = dims if isinstance(dims, tuple | list) else (dims,)
    if not all(type(dim) is int for dim in given):  # None: all axes
        return None
    gone = {dim % len(before) for dim in given}
    kept = tuple(extent for place, extent in enumerate(before) if place not in gone)
    return kept if tuple(map(_size, kept)) == after else None


def _dims(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    default = 0 if name == "unbind" else None
    return kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else default))


def _plain(index: Any) -> bool:
    """True for an index of integers, slices, None and an ellipsis."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)


def _indexed(before: Extents, index: Any, after: Shape) -> Extents | None:
    parts = list(index) if isinstance(index, tuple) else [index]
    parts += [] if any(part is Ellipsis for part in parts) else [Ellipsis]
    rest = len(before) - sum(type(part) in (int, slice) for part in parts)
    left, found = list(before), list[Extent]()
    for part in parts:
        if part is None:
            found.append(())
        elif part is Ellipsis:
            found, left = [*found, *left[:rest]], left[rest:]
        else:
            found, left = [*found, *left[: type(part) is slice]], left[1:]
    if len(found) != len(after):
        return None
    pairs = zip(found, after, strict=True)
    return tuple(extent if _size(extent) == size else _extent(size, is_free(extent)) for extent, size in pairs)


def _product(data: list[Operand], after: Shape) -> Extents | None:
    """The extents of a matrix product of data: rows of the first, columns of the second factor."""
    rows, columns = (operand.extents for operand in data[:2])
    if rows is None or columns is None or not len(rows) == len(columns) == len(after) >= 2:
        return None
    made = (*rows[:-1], columns[-1])
    return made if tuple(map(_size, made)) == after else None


def _size(extent: Extent) -> int:
    return prod(factor.size for factor in extent)
