"""Memory: which regions of a storage overlap, checked against the bytes themselves."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.dataflow.memory import Region

BASES = ((2, 4, 3), (3, 5), (12,))


@st.composite
def views(draw: st.DrawFn, base: Tensor) -> Tensor:
    """A view of a base, made by a few slices, selections and transpositions."""
    view = base
    for _ in range(draw(st.integers(0, 3))):
        if not view.dim():
            break
        axis = draw(st.integers(0, view.dim() - 1))
        size = view.shape[axis]
        start = draw(st.integers(0, size - 1))
        view = draw(
            st.sampled_from(
                [
                    view.select(axis, start),
                    view.narrow(axis, start, draw(st.integers(1, size - start))),
                    view.transpose(axis, 0),
                    view[(slice(None),) * axis + (slice(start, None, 2),)],
                ]
            )
        )
    return view


def bytes_of(view: Tensor) -> set[int]:
    width = view.element_size()
    places = (sum(map(int.__mul__, where, view.stride())) for where in product(*map(range, view.shape)))
    return {(view.storage_offset() + place) * width + byte for place in places for byte in range(width)}


@given(st.data(), st.sampled_from(BASES), st.sampled_from([torch.float32, torch.uint8]))
def test_what_is_said_of_regions_is_true(data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    base = torch.empty(shape, dtype=dtype)
    view, other = data.draw(views(base)), data.draw(views(base))
    first, second = bytes_of(view), bytes_of(other)
    assert Region.of(view).size == len(first)
    assert Region.of(view).overlaps(Region.of(other)) or not first & second
    assert first >= second or not Region.of(view).covers(Region.of(other))


def test_parts_of_one_tensor_are_told_apart() -> None:
    base = torch.empty(2, 6, 4, 4)
    whole, left, right, part = (
        Region.of(tensor) for tensor in (base, base[:, :3], base[:, 3:], base[0, 1:3, 1:-1, 1:-1])
    )
    assert whole.covers(left) and left.covers(part) and not left.covers(whole)
    assert not left.overlaps(right) and not right.overlaps(part)
    assert not Region.of(base[..., ::2]).overlaps(Region.of(base[..., 1::2]))
    assert not Region.of(base[0]).overlaps(Region.of(base[1]))
