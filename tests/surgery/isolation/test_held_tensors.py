"""Held tensors: constants are found where code holds them, cheaply and without running any code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.isolation import held_tensors as held
from surgery.isolation.held_tensors import held_by_code, reachable_tensors


class Shelf(Mapping[str, Tensor]):
    """A mapping that acts like one that reads a file on access."""

    asked = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[str]:
        Shelf.asked += 1
        return iter("abc")

    def __getitem__(self, key: str) -> Tensor:
        Shelf.asked += 1
        return torch.zeros(4)


class Boxed(list[Tensor]):
    """A list with another content when iterated."""

    def __iter__(self) -> Iterator[Tensor]:
        raise AssertionError("asked")


SHELF = Shelf()
TABLES = [torch.rand(4) for _ in range(200)]
BIG = [(f"p{number}", number) for number in range(20_000)]


def _table(number: int) -> Tensor:
    return TABLES[number]


class Net(nn.Module):
    """Adds constants of its source module to the input of a sigmoid, and does not use the other globals."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shelf = nn.Linear(4, 4), nn.Linear(4, 4), SHELF

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + TABLES[199] * len(BIG)
        return self.b(torch.sigmoid(y + _table(3)))


def test_a_mapping_is_not_asked_and_constants_are_found() -> None:
    Shelf.asked = 0
    [site] = surgery.find_sites(Net(), torch.rand(2, 4))
    assert (site.role, site.fed_by, site.feeds) == ("nonlinearity", ("linear",), ("linear",))
    assert Shelf.asked == 0


def test_a_big_list_is_left_and_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    parts = held._parts

    def counted(value: object, most: int | None) -> list[object]:
        looked.append(value)
        return parts(value, most)

    monkeypatch.setattr(held, "_parts", counted)
    read: dict[int, object] = {}
    [frame] = _running()
    found = list(held_by_code(frame, read))
    assert {id(table) for table in TABLES} <= {id(tensor) for tensor in found}
    assert len({id(tensor) for tensor in looked} & set(map(id, BIG))) < 5000  # of 20,000
    looked.clear()
    assert not list(held_by_code(frame, read))
    assert not looked


def _running() -> list[FrameType]:
    """The frame of code that mentions the big list and the tables."""
    return [sys._getframe()] if BIG and TABLES else []


def test_containers_are_read_without_their_own_methods_and_in_order() -> None:
    first, second, third, fourth = (torch.rand(1) for _ in range(4))
    nested = (first, {"a": Boxed([second]), "b": [third]}, SHELF, fourth)
    assert [id(value) for value in reachable_tensors(nested)] == list(map(id, (first, second, third, fourth)))
    assert [id(value) for value in reachable_tensors(nested, 5)] == list(map(id, (first, second)))


def cached(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator with its cache in a closure."""
    known = functools.lru_cache(function)

    @functools.wraps(function)
    def asked(*args: int) -> Tensor:
        return known(*args)

    return asked


class Anchored(nn.Module):
    """Adds anchors that are made once to the input of a sigmoid, like detectors of `transformers`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @staticmethod
    @cached
    def anchors(width: int) -> Tensor:
        return torch.arange(width) / width

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(x) + Anchored.anchors(x.shape[-1]))


def test_what_a_cache_behind_a_decorator_held_before_is_a_constant() -> None:
    model, x = Anchored(), torch.rand(2, 4)
    (fresh,) = surgery.find_sites(model, x)
    assert (fresh.fed_by, fresh.joins_by) == (("linear",), None)
    model(x)
    assert list(surgery.find_sites(model, x)) == [fresh], "the anchors were made in a run of the model"
