"""Lanes: loads and stores up to the last element, arithmetic, tables and sums, beside plain loops of numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import carray, njit

from surgery.activations.kernels import numba_lanes
from surgery.activations.kernels.numba_lanes import (
    ENTRIES,
    WIDTH,
    add_where,
    floor,
    gather,
    gather_pairs,
    gather_rows,
    lanes,
    load,
    look_up,
    pointer,
    power_of_two,
    prefetch,
    store,
    take,
    total,
    where,
)

Array = np.ndarray[Any, Any]
f32 = np.float32
UNTOUCHED = 7


def numbers(size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=size).astype(f32)


# -- memory -----------------------------------------------------------------------------------------------------------


@njit
def copied(source, target, start, stop, room):  # type: ignore[no-untyped-def]
    """Write elements from start to stop, and all lanes of the last load beyond `room`."""
    for i in range(start, stop, WIDTH):
        prefetch(source, i + WIDTH)
        store(target, i, stop, load(source, i, stop))
    store(target, room, room + WIDTH, load(source, start + (stop - start - 1) // WIDTH * WIDTH, stop))


@pytest.mark.parametrize("of_target", [np.float32, np.uint16])
@pytest.mark.parametrize("of_source", [np.float32, np.uint16])
def test_what_is_loaded_is_stored_and_nothing_beside_it(of_source: type, of_target: type) -> None:
    values = torch.from_numpy(numbers(80)).bfloat16()  # numbers that both types have
    source, untouched = kept_as(values, of_source), kept_as(torch.full((128,), UNTOUCHED).bfloat16(), of_target)
    for start in (0, 3):
        for size in range(1, 2 * WIDTH + 3):
            stop, target, room = start + size, untouched.copy(), len(untouched) - WIDTH
            copied(source, target, start, stop, room)
            wanted = untouched.copy()
            wanted[start:stop] = kept_as(values, of_target)[start:stop]
            rest = (size - 1) % WIDTH + 1  # elements of the last load, after which there are zeros
            wanted[room:] = 0
            wanted[room : room + rest] = wanted[stop - rest : stop]
            assert np.array_equal(target, wanted), (start, stop)


def kept_as(values: torch.Tensor, kind: type) -> Array:
    return values.float().numpy() if kind is np.float32 else values.view(torch.uint16).numpy()


def test_bfloat16_is_rounded_to_the_nearest_and_to_even_in_a_tie() -> None:
    ties = (torch.arange(64, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)
    near = torch.cat([ties, ties.nextafter(ties + 1), ties.nextafter(ties - 1), -ties])
    ends = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, 1e-40, -1e-45])
    source = torch.cat([near, ends])
    size, found = len(source), torch.empty(len(source) + WIDTH, dtype=torch.bfloat16)
    copied(source.numpy(), found.view(torch.uint16).numpy(), 0, size, size)
    bits, wanted = found[:size].view(torch.int16), source.bfloat16()
    assert torch.equal(bits[~wanted.isnan()], wanted.view(torch.int16)[~wanted.isnan()])
    assert torch.equal(found[:size].isnan(), wanted.isnan())


# -- arithmetic -------------------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def computed(a, b, number, out):  # type: ignore[no-untyped-def]
    x, y = load(a, 0, WIDTH), load(b, 0, WIDTH)
    store(out, 0, WIDTH, x + y)
    store(out, 16, 32, x - number)
    store(out, 32, 48, number * y)
    store(out, 48, 64, x / y)
    store(out, 64, 80, where(x < y, x, number))
    store(out, 80, 96, where(x > number, number, y))
    store(out, 96, 112, where(x >= y, x, y))
    store(out, 112, 128, where(x == y, lanes(number), x))
    store(out, 128, 144, floor(x))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_operators_are_those_of_numpy_for_all_numbers() -> None:
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan]
    a, b = numbers(WIDTH) * f32(3), numbers(WIDTH, 1)
    a[:8], b[:8] = [*ends, 1.0, -1.0, 0.5], [*ends[::-1], 1.0, 0.0, 0.5]
    number, out = f32(0.5), np.empty(9 * WIDTH, f32)
    computed(a, b, number, out)
    wanted = [
        a + b, a - number, number * b, a / b, np.where(a < b, a, number), np.where(a > number, number, b),
        np.where(a >= b, a, b), np.where(a == b, number, a), np.floor(a),
    ]  # fmt: skip
    np.testing.assert_array_equal(out.reshape(9, WIDTH), wanted)


@njit
def powers(shifted, out):  # type: ignore[no-untyped-def]
    store(out, 0, WIDTH, power_of_two(load(shifted, 0, WIDTH)))
    return total(load(shifted, 0, WIDTH))


def test_powers_of_two_are_exact_and_a_total_has_all_lanes() -> None:
    shift = f32(1.5 * 2**23)  # leaves integers in the lowest bits
    for first in range(-126, 113, 16):
        exponents, out = np.arange(first, first + WIDTH).astype(f32), np.empty(WIDTH, f32)
        powers(exponents + shift, out)
        assert np.array_equal(out, np.exp2(exponents))
    values = 2 ** np.arange(WIDTH).astype(f32)
    assert powers(values, np.empty(WIDTH, f32)) == 2**WIDTH - 1


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", ["as it is", "without wide registers", "without gathers"])
def test_tables_are_looked_up_on_any_processor(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if processor != "as it is":
        monkeypatch.setattr(numba_lanes, "WIDE", False)
        monkeypatch.setattr(numba_lanes, "_GATHERS", numba_lanes._GATHERS and processor != "without gathers")

    @njit  # compiled here, for what the processor is said to have
    def looked_up(table, start, size, index, out):  # type: ignore[no-untyped-def]
        at = load(index, 0, WIDTH)
        first, second = gather_pairs(table, start, size, at)
        store(out, 0, 16, look_up(table, start, at))
        store(out, 16, 32, gather(table, start, at))
        store(out, 32, 48, gather_rows(table, start, size, at))
        store(out, 48, 64, first)
        store(out, 64, 80, second)

    size, start, lane = 40, 5, np.arange(WIDTH)
    table, out = numbers(start + 2 * size * WIDTH), np.empty(5 * WIDTH, f32)
    for index in (lane, lane[::-1] + WIDTH, lane * 7 % ENTRIES, np.zeros(WIDTH, int), np.full(WIDTH, ENTRIES - 1)):
        looked_up(table, start, size, index.astype(f32), out)
        row, pair = start + size * lane + index, start + 2 * (size * lane + index)
        wanted = [table[at] for at in (start + index, start + index, row, pair, pair + 1)]
        assert np.array_equal(out.reshape(5, WIDTH), wanted)


# -- sums -------------------------------------------------------------------------------------------------------------


@njit
def added(keys, ones, others, start, step, rows, first, sums, beyond):  # type: ignore[no-untyped-def]
    add_where(3, keys, ones, others, start, step, rows, first, sums, beyond)


def test_elements_are_added_to_the_sums_of_their_keys_by_column() -> None:
    rows, step, kinds, group = 9, 2 * WIDTH, 5, 3
    rng = np.random.default_rng(3)
    keys = rng.integers(0, kinds, (rows, step)).astype(f32)
    ones, others = (rng.integers(-99, 99, (rows, step)).astype(f32) for _ in range(2))  # exact in any order
    for start in (0, WIDTH):
        for first in (0, 2):
            sums = rng.integers(-9, 9, (2, kinds, step)).astype(f32)
            wanted = sums.copy()
            for row in range(rows):
                for column in range(start, start + WIDTH):
                    key = int(keys[row, column])
                    if first <= key < first + group:
                        wanted[0, key, column] += ones[row, column]
                        wanted[1, key, column] += others[row, column]
            added(
                *(kept.ravel() for kept in (keys, ones, others)), start, step, rows, first, sums.ravel(), kinds * step
            )
            assert np.array_equal(sums, wanted)


# -- threads and addresses --------------------------------------------------------------------------------------------


@njit(nogil=True)
def taken(counter, seen, most):  # type: ignore[no-untyped-def]
    turn = take(counter)
    while turn < most:
        seen[turn] += 1
        turn = take(counter)


def test_every_turn_is_taken_once_whatever_the_number_of_threads() -> None:
    counter, seen = np.zeros(1, np.intp), np.zeros(200_000, np.intp)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(taken, counter, seen, len(seen)) for _ in range(3)]:
            done.result()
    assert (seen == 1).all() and counter[0] == len(seen) + 3


@njit
def doubled(address, size):  # type: ignore[no-untyped-def]
    values = carray(pointer(address), size, np.float32)
    for i in range(size):
        values[i] *= 2


def test_an_address_is_memory() -> None:
    values = numbers(9)
    wanted = 2 * values
    doubled(values.ctypes.data, 9)
    assert np.array_equal(values, wanted)
