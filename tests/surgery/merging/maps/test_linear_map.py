"""Linear maps: what they become one after the other and as a sum, against running the layers and their Jacobians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.merging.maps.linear_map import SIZED, LinearMap, NotMergeable
from tests.surgery.merging.jacobian import apply, matrix_of

FLOAT = torch.float64
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def map_of(layer: Any) -> LinearMap:
    bias = None if layer.bias is None else layer.bias.detach()
    padding = tuple((side, side) for side in layer.padding)
    return LinearMap(
        layer.weight.detach(), bias, layer.stride, padding, layer.dilation, layer.groups, layer.padding_mode
    )


def close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and float((got - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[nn.Module, nn.Module, Tensor]:
    """Two convolutions over 1, 2 or 3 axes, the second without padding, and an input."""
    axes = draw(st.sampled_from((1, 2, 2, 3)))
    mode = draw(st.sampled_from(("zeros", "zeros", "circular", "reflect", "replicate")))
    widths = [12, draw(st.sampled_from((6, 12))), draw(st.sampled_from((6, 12)))]
    made: list[nn.Module] = []
    for number in range(2):
        groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 6, 12) if not widths[number] % g and not
                                       widths[number + 1] % g]))  # fmt: skip
        many = {name: tuple(draw(st.integers(low, high)) for _ in range(axes))
                for name, low, high in (("kernel_size", 1, 3), ("stride", 1, 2), ("dilation", 1, 2))}  # fmt: skip
        padding = draw(st.integers(0, 1)) if number == 0 else 0
        layer = CONVOLUTIONS[axes](
            widths[number], widths[number + 1], **many, padding=padding, groups=groups, bias=draw(st.booleans()),
            padding_mode=mode if padding else "zeros",
        )  # fmt: skip
        made.append(layer.double())
    return made[0], made[1], torch.randn(2, 12, *(draw(st.integers(12, 14)) for _ in range(axes)), dtype=FLOAT)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_a_convolution_behind_another_is_one_convolution(case: tuple[Any, Any, Tensor]) -> None:
    first, last, x = case
    made = map_of(first).then(map_of(last))
    with torch.no_grad():
        wanted = last(first(x))
    assert made.groups == math.gcd(first.groups, last.groups)
    assert made.size_after(tuple(x.shape[2:])) == tuple(wanted.shape[2:])
    assert made.extent == tuple(
        d1 * (k1 - 1) + s1 * d2 * (k2 - 1) + 1
        for k1, d1, s1, k2, d2 in zip(
            first.kernel_size, first.dilation, first.stride, last.kernel_size, last.dilation, strict=True
        )
    )
    assert close(apply(made, x), wanted)


def test_the_kernel_is_the_jacobian_of_one_output_place() -> None:
    first = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    last = nn.Conv2d(6, 3, (1, 2), dilation=2).double()
    made = map_of(first).then(map_of(last))
    shape = (1, 4, 9, 9)
    with torch.no_grad():
        matrix, constant = matrix_of(lambda x: last(first(x)), shape)
        mine, own_constant = matrix_of(lambda x: apply(made, x), shape)
    assert close(mine, matrix) and close(own_constant, constant)


def test_equal_groups_stay_and_depthwise_stays_depthwise() -> None:
    one, two = (map_of(nn.Conv2d(8, 8, 3, groups=8, bias=False).double()) for _ in range(2))
    assert one.then(two).weight.shape == (8, 1, 5, 5)
    dense = map_of(nn.Conv2d(8, 8, 1).double())
    assert one.then(dense).groups == 1 and dense.then(one).weight.shape == (8, 8, 3, 3)


def test_dilation_stays_where_one_kernel_is_a_point() -> None:
    wide, point = (map_of(nn.Conv2d(4, 4, k, dilation=k, padding=k // 2).double()) for k in (3, 1))
    for made in (wide.then(point), LinearMap.identity(4).then(wide)):
        assert made.kernel == (3, 3) and made.dilation == (3, 3)


PADDED: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "1x1 without bias": ({"kernel_size": 1, "bias": False}, {"kernel_size": 3, "padding": 1}, True),
    "1x1 with stride": ({"kernel_size": 1, "stride": 2, "bias": False}, {"kernel_size": 3, "padding": 1}, True),
    "1x1, padded": ({"kernel_size": 1, "padding": 1, "bias": False}, {"kernel_size": 3, "padding": 1}, True),
    "full padding": ({"kernel_size": 3, "padding": 2, "bias": False}, {"kernel_size": 3, "padding": 1}, True),
    "1x1 with bias": ({"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, False),
    "3x3": ({"kernel_size": 3, "padding": 1, "bias": False}, {"kernel_size": 3, "padding": 1}, False),
    "circular": ({"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
                 {"kernel_size": 3, "padding": 2, "padding_mode": "circular"}, True),
    "circular, shrinking": ({"kernel_size": 3, "padding_mode": "circular"},
                            {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, False),
    "circular, zeros": ({"kernel_size": 3, "padding": 1, "padding_mode": "circular", "bias": False},
                        {"kernel_size": 3, "padding": 1}, False),
    "reflect": ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
                {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, False),
    "reflect behind 1x1": ({"kernel_size": 1}, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, True),
    "replicate behind 1x1": ({"kernel_size": 1}, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}, True),
}  # fmt: skip


@pytest.mark.parametrize("case", PADDED)
def test_padding_in_the_second_convolution_is_exact_or_refused(case: str) -> None:
    first, last, exact = PADDED[case]
    one, two = nn.Conv2d(3, 5, **first).double(), nn.Conv2d(5, 4, **last).double()
    x = torch.randn(2, 3, 9, 10, dtype=FLOAT)
    if not exact:
        with pytest.raises(NotMergeable, match="the second convolution pads by"):
            map_of(one).then(map_of(two))
        return
    with torch.no_grad():
        assert close(apply(map_of(one).then(map_of(two)), x), two(one(x)))


def test_padding_that_depends_on_the_size_allows_pointwise_neighbours_only() -> None:
    sized = LinearMap(torch.randn(4, 4, 3, 3), None, (2, 2), ((0, 0),) * 2, (1, 1), 1, SIZED)
    norm = LinearMap.diagonal(torch.randn(4), torch.randn(4))
    assert sized.then(norm).mode == SIZED and sized.then(norm).bias is not None
    with pytest.raises(NotMergeable, match="its padding depends on the size of the input"):
        sized.then(sized)
    with pytest.raises(NotMergeable, match="pads by the size"):
        sized.plus(sized)
    with pytest.raises(NotMergeable, match="a bias in front of it"):
        norm.then(sized)


def skips(stride: int) -> dict[str, nn.Module]:
    option_a = nn.Sequential(nn.AvgPool2d(1, stride), nn.ZeroPad2d(0))
    pool = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(4, 4, 1)) if stride == 2 else nn.AvgPool2d(1, 1)
    return {"projection": nn.Conv2d(4, 4, 1, stride=stride), "pool": pool, "subsampled": option_a[0]}


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("skip", ("projection", "pool", "subsampled"))
@pytest.mark.parametrize("groups", (1, 2, 4))
def test_a_skip_is_added_to_the_kernel(stride: int, skip: str, groups: int) -> None:
    main, way = nn.Conv2d(4, 4, 3, stride, 1, groups=groups).double(), skips(stride)[skip].double()
    channels = {
        "projection": lambda: map_of(way),
        "pool": lambda: LinearMap.average(4, (2, 2), (2, 2), (0, 0), 4).then(map_of(way[1]))  # type: ignore[index]
        if stride == 2 else LinearMap.identity(4),
        "subsampled": lambda: LinearMap.diagonal(torch.ones(4, dtype=FLOAT), None, (stride, stride)),
    }  # fmt: skip
    made = map_of(main).plus(channels[skip]())
    x = torch.randn(2, 4, 8, 10, dtype=FLOAT)
    with torch.no_grad():
        assert close(apply(made, x), main(x) + way(x))
    assert made.kernel == (3, 3)


def test_branches_that_differ_have_no_sum() -> None:
    plain, strided, circular = (
        map_of(nn.Conv2d(4, 4, 3, padding=1, **more).double())
        for more in ({}, {"stride": 2}, {"padding_mode": "circular"})
    )
    with pytest.raises(NotMergeable, match="strides"):
        plain.plus(strided)
    with pytest.raises(NotMergeable, match="pad with zeros and circular"):
        plain.plus(circular)
    with pytest.raises(NotMergeable, match="channels"):
        plain.plus(map_of(nn.Conv2d(4, 8, 3, padding=1).double()))
    with pytest.raises(NotMergeable, match="4 channels are read as 8"):
        plain.then(map_of(nn.Conv2d(8, 4, 1).double()))
    with pytest.raises(NotMergeable, match="over 1 spatial axes meets one over 2"):
        plain.then(map_of(nn.Conv1d(4, 4, 1).double()))


def test_uneven_padding_becomes_even_by_zeros_in_the_kernel() -> None:
    uneven = LinearMap(torch.randn(3, 4, 2, 3, dtype=FLOAT), None, (1, 2), ((0, 1), (2, 0)), (2, 1), 1)
    even = uneven.symmetric()
    x = torch.randn(1, 4, 7, 8, dtype=FLOAT)
    assert even.padding == ((1, 1), (2, 2)) and close(apply(even, x), apply(uneven, x))
    assert even.symmetric() is even


def test_the_sign_of_a_map() -> None:
    made = map_of(nn.Conv2d(4, 4, 1).double())
    x = torch.randn(1, 4, 2, 2, dtype=FLOAT)
    assert close(apply(made.plus(made).plus(made.negated()), x), apply(made, x))
