"""Tables: what loops look up is the function, and sums per region give the gradients, beside torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from surgery.activations.functions.piecewise import FLOOR
from surgery.activations.kernels import numba_tables as told
from surgery.activations.kernels.numba_lanes import ENTRIES
from surgery.activations.kernels.numba_tables import HEAD, uneven_gradients, uneven_table
from surgery.activations.kernels.numba_tasks import call
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


def fields_of(params: Sequence[Array], columns: int) -> list[int]:
    """What the loops for even knots are told: a parameter with one channel is shared by all."""
    fields = [0] * told.FIELDS
    for place, param in enumerate(params):
        fields[place], fields[told.OWN + place] = param.ctypes.data, int(param.shape[1] > 1)
    fields[told.KNOTS], fields[told.CHANNELS] = len(params[0]), max(param.shape[1] for param in params)
    fields[told.COLUMNS] = columns
    return fields


def even_table(by_rows: bool, *params: Array, columns: int = CHANNELS) -> Array:
    fields = fields_of(params, columns)
    table = np.full(told.even_size(by_rows, len(params[0]), columns), np.nan, np.float32)
    fields[told.TABLE] = table.ctypes.data
    call(told.even_table_of(by_rows), fields)
    return table


def even_gradients(sums: Array, *params: Array) -> tuple[Array, ...]:
    """From sums of one task, (sums, columns), or of several, (tasks, sums, columns)."""
    params = tuple(param.astype(np.float32) for param in params)
    fields, found = fields_of(params, sums.shape[-1]), [np.full_like(param, np.nan) for param in params]
    fields[told.SUMS], fields[told.TASKS] = sums.ctypes.data, len(sums) if sums.ndim == 3 else 1
    for place, gradient in enumerate(found):
        fields[told.GRADIENTS + place] = gradient.ctypes.data
    call(told.even_gradients(), fields)
    return tuple(found)


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


def test_a_bound_out_of_order_is_moved_right_of_the_other() -> None:
    heights, left, right, *slopes = even(2)
    right[0, 1] = left[0, 1] - 1
    head, _, steep = lines_of(even_table(False, heights, left, right, *slopes), HEAD, 4, False)
    wanted = np.where([False, True, False], left[0] + FLOOR * (1 + abs(left[0])), right[0])
    np.testing.assert_allclose(head[1], wanted, rtol=1e-6)
    rises = (heights[1:, 1] - heights[:-1, 1]) * 2 / (head[1, 1] - left[0, 1])
    np.testing.assert_allclose(steep[1:-1, 1], rises, rtol=1e-6)


@pytest.mark.parametrize("by_rows", [True, False])
def test_shared_parameters_and_repeated_channels_are_those_of_every_column(by_rows: bool) -> None:
    params = even(4)
    shared = [params[0], *even(4, 1)[1:]]
    expanded = [np.ascontiguousarray(np.broadcast_to(param, (len(param), CHANNELS))) for param in shared]
    np.testing.assert_array_equal(even_table(False, *shared)[: HEAD * CHANNELS],
                                  even_table(False, *expanded)[: HEAD * CHANNELS])  # fmt: skip
    twice = even_table(by_rows, *params, columns=2 * CHANNELS)
    once = even_table(by_rows, *params)
    head = HEAD * CHANNELS
    np.testing.assert_array_equal(twice[: 2 * head].reshape(HEAD, 2, CHANNELS)[:, 1], once[:head].reshape(HEAD, -1))
    if by_rows:
        np.testing.assert_array_equal(twice[2 * head :], np.tile(once[head:], 2))


def test_gradients_are_added_up_over_tasks_repeats_and_channels_that_share() -> None:
    params, rng = even(4), np.random.default_rng(2)
    parts = rng.normal(size=(3, 12, 2 * CHANNELS))
    once = parts.sum(0).reshape(12, 2, CHANNELS).sum(1)
    each = even_gradients(np.ascontiguousarray(once), *params)
    for found, wanted in zip(even_gradients(parts, *params), each, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    shared = [params[0], *even(4, 1)[1:]]
    expanded = [np.ascontiguousarray(np.broadcast_to(param, (len(param), CHANNELS))) for param in shared]
    apart = even_gradients(np.ascontiguousarray(once), *expanded)
    for found, wanted, param in zip(even_gradients(parts, *shared), apart, shared, strict=True):
        assert found.shape == param.shape
        np.testing.assert_allclose(found, wanted if len(found) > 1 else wanted.sum(1, keepdims=True), rtol=1e-5)


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
