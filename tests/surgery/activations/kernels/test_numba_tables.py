"""Tables: what loops look up is the function, and sums per region give the gradients, beside torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from surgery.activations.kernels.numba_lanes import ENTRIES
from surgery.activations.kernels.numba_piecewise import HEAD
from surgery.activations.kernels.numba_tables import even_gradients, even_table, uneven_gradients, uneven_table
from tests.surgery.activations.every import FORMULAS

Array = np.ndarray[Any, Any]
CHANNELS = 3
INTERVALS = [1, 2, 16, 40]


def even(intervals: int, channels: int = CHANNELS) -> list[Array]:
    """Heights, ends, and slopes beyond them."""
    rng = np.random.default_rng(intervals)
    rows = rng.normal(size=(intervals + 1, channels)), *(rng.uniform(0.5, 2, (1, channels)) for _ in range(4))
    return [sign * row.astype(np.float32) for sign, row in zip((1, -1, 1, 1, 1), rows, strict=True)]


def uneven(intervals: int, channels: int = CHANNELS) -> list[Array]:
    """The first knot, its height, widths and slopes."""
    rng = np.random.default_rng(intervals)
    rows = (1, 1, intervals, intervals + 2)
    start, height, widths, slopes = (rng.normal(size=(count, channels)).astype(np.float32) for count in rows)
    return [start - 2, height, np.abs(widths) + np.float32(0.1), slopes]


def lines_of(table: Array, head: int, regions: int, by_rows: bool) -> tuple[Array, Array, Array]:
    """The head of a table, and the bases and slopes (regions, channels), found where the loops look for them."""
    heads, space = table[: head * CHANNELS].reshape(head, CHANNELS), regions if by_rows else max(ENTRIES, regions)
    found = np.empty((2, regions, CHANNELS), np.float32)
    for channel in range(CHANNELS):
        for region in range(regions):
            start = head * CHANNELS + 2 * space * channel
            places = (2 * region, 2 * region + 1) if by_rows else (region, space + region)
            found[:, region, channel] = [table[start + place] for place in places]
    assert len(table) == CHANNELS * (head + 2 * space)
    return heads, found[0], found[1]


def of_formula(name: str, x: Array, params: Sequence[Array]) -> Array:
    return by_formula(name, torch.from_numpy(x), [torch.from_numpy(param) for param in params]).numpy()


def by_formula(name: str, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The function, in float64, by another formula than those of the library."""
    keys, flat = {
        "pwlu": (("heights", "left", "right", "low_slope", "high_slope"), ("left", "right", "low_slope", "high_slope")),
        "npwlu": (("start", "height", "widths", "slopes"), ("start", "height")),
    }[name]
    named = {key: (param[0] if key in flat else param).double() for key, param in zip(keys, params, strict=True)}
    return FORMULAS[name](x.double(), **named)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("intervals", INTERVALS)
def test_lines_of_equally_spaced_knots_meet_the_formula(intervals: int, by_rows: bool) -> None:
    params = even(intervals)
    _, left, right, *_ = params
    head, bases, slopes = lines_of(even_table(by_rows, *params), HEAD, intervals + 2, by_rows)
    np.testing.assert_allclose(
        head, np.concatenate([left, right, intervals / (right - left), (right - left) / intervals])
    )
    knots = left + np.arange(intervals + 1)[:, None] * head[3]
    assert_lines("pwlu", params, knots, bases, slopes)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("intervals", INTERVALS)
def test_lines_between_knots_at_any_distance_meet_the_formula(intervals: int, by_rows: bool) -> None:
    params = uneven(intervals)
    knots, bases, slopes = lines_of(uneven_table(by_rows, *params), intervals + 1, intervals + 2, by_rows)
    np.testing.assert_allclose(knots, params[0] + np.cumsum(np.vstack([0 * params[0], params[2]]), 0), rtol=1e-6)
    assert_lines("npwlu", params, knots, bases, slopes)


def assert_lines(name: str, params: Sequence[Array], knots: Array, bases: Array, slopes: Array) -> None:
    """In each region, the line through its anchor is the function."""
    for region in range(len(bases)):
        low = knots[region - 1] if region else knots[0] - 2
        high = knots[region] if region < len(knots) else knots[-1] + 2
        for share in (0.1, 0.9):
            x = (low + share * (high - low))[None]
            found = bases[region] + slopes[region] * (x - knots[max(region - 1, 0)])
            np.testing.assert_allclose(found, of_formula(name, x, params), rtol=1e-4, atol=1e-5)


def sums_of(x: Array, grad: Array, knots: Array) -> Array:
    """Per region, the gradients, then the gradients times the distances to its anchor."""
    regions, sums = len(knots) + 1, np.zeros((2 * (len(knots) + 1), x.shape[1]))
    for row in range(len(x)):
        for channel in range(x.shape[1]):
            region = int((x[row, channel] >= knots[:, channel]).sum())
            anchor = knots[max(region - 1, 0), channel]
            sums[region, channel] += grad[row, channel]
            sums[regions + region, channel] += grad[row, channel] * (x[row, channel] - anchor)
    return sums


GRADIENTS: dict[str, tuple[Callable[..., list[Array]], Callable[..., tuple[Array, ...]]]] = {
    "pwlu": (even, even_gradients),
    "npwlu": (uneven, uneven_gradients),
}


@pytest.mark.parametrize("intervals", INTERVALS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_from_sums_are_differences_of_the_formula(name: str, intervals: int) -> None:
    make, gradients = GRADIENTS[name]
    params = [param.astype(float) for param in make(intervals)]
    rng = np.random.default_rng(1)
    x, grad = 2 * rng.normal(size=(40, CHANNELS)), rng.normal(size=(40, CHANNELS))
    if name == "pwlu":
        _, left, right, *_ = params
        knots = left + np.arange(intervals + 1)[:, None] / intervals * (right - left)
    else:
        knots = params[0] + np.cumsum(np.vstack([0 * params[0], params[2]]), 0)
    found = gradients(sums_of(x, grad, knots), *params)
    assert [gradient.shape for gradient in found] == [param.shape for param in params]
    step = 1e-6
    for place, param in enumerate(params):
        for row in range(len(param)):
            values = []
            for sign in (1, -1):
                moved = [other.copy() for other in params]
                moved[place][row] += sign * step  # channels do not depend on each other
                values.append((grad * of_formula(name, x, moved)).sum(0))
            wanted = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(found[place][row], wanted, rtol=1e-5, atol=1e-5, err_msg=f"{place} {row}")
