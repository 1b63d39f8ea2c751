"""Leftovers: a look changes nothing that is kept outside of the model; it still runs, and looks the same again."""

from __future__ import annotations

import functools
import gc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import CannotLook
from tests.asserts import assert_raises, assert_untouched
from tests.models import Stateful

KEPT: dict[int, Any] = {}
NOTED: list[Any] = []
LATEST: deque[Any] = deque(maxlen=3)
TABLE: Tensor | None = None


class Plain:
    """An object with attributes of its own."""

    table: Tensor | None = None
    tables: ClassVar[dict[int, Any]] = {}


OBJECT = Plain()


def ramp(size: int) -> Tensor:
    return torch.arange(size).float()


@functools.lru_cache(maxsize=8)
def in_bounded_cache(size: int) -> Tensor:
    return ramp(size)


@functools.cache
def in_cache(size: int) -> Tensor:
    return ramp(size)


@functools.cache
def two_in_cache(size: int) -> tuple[Tensor, Tensor]:
    return ramp(size), torch.ones(size)


def in_tuple_in_cache(size: int) -> Tensor:
    first, second = two_in_cache(size)
    return first * second


@functools.lru_cache
def object_in_cache(size: int) -> Plain:
    made = Plain()
    made.table = ramp(size)
    return made


def in_object_in_cache(size: int) -> Tensor:
    table = object_in_cache(size).table
    assert table is not None
    return table


def in_dict(size: int) -> Tensor:
    if size not in KEPT:
        KEPT[size] = ramp(size)
    kept: Tensor = KEPT[size]
    return kept


def in_list_in_dict(size: int) -> Tensor:
    if size not in KEPT:
        KEPT[size] = [ramp(size), torch.ones(size)]
    first, second = KEPT[size]
    product: Tensor = first * second
    return product


def in_name(size: int) -> Tensor:
    global TABLE
    if TABLE is None:
        TABLE = ramp(size)
    return TABLE


def in_class(size: int) -> Tensor:
    if Plain.table is None:
        Plain.table = ramp(size)
    if size not in Plain.tables:
        Plain.tables[size] = {"ones": torch.ones(size)}
    product: Tensor = Plain.table * Plain.tables[size]["ones"]
    return product


def in_object(size: int) -> Tensor:
    if OBJECT.table is None:
        OBJECT.table = ramp(size)
    return OBJECT.table


def in_function(size: int) -> Tensor:
    if not hasattr(in_function, "table"):
        in_function.table = ramp(size)  # type: ignore[attr-defined]
    return in_function.table  # type: ignore[attr-defined, no-any-return]


def in_lists(size: int) -> Tensor:
    result = ramp(size)
    NOTED.append(result)
    LATEST.append(result)
    return result


WAYS: list[Callable[[int], Tensor]] = [
    in_bounded_cache, in_cache, in_tuple_in_cache, in_object_in_cache, in_dict, in_list_in_dict, in_name, in_class,
    in_object, in_function, in_lists,
]  # fmt: skip


class Net(nn.Module):
    """Adds a table that is made once and kept outside of the model; with `needs_numbers` it does not run on meta."""

    def __init__(self, table: Callable[[int], Tensor], needs_numbers: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()
        self.table, self.needs_numbers = table, needs_numbers

    @functools.cache  # noqa: B019
    def own_table(self, size: int) -> Tensor:
        return torch.ones(size)

    def forward(self, x: Tensor) -> Tensor:
        if self.needs_numbers and not x.isfinite().all():
            return x
        x = self.act(self.first(x)) + self.table(x.shape[-1]) * self.own_table(x.shape[-1])
        return self.act(self.second(x))


def state() -> list[Any]:
    """All state outside of the model, in comparable form."""
    sizes = [cached.cache_info().currsize for cached in (in_bounded_cache, in_cache, two_in_cache, object_in_cache)]
    own = Net.own_table.cache_info().currsize
    kept = [sorted(KEPT), len(NOTED), len(LATEST), TABLE is None, Plain.table is None, sorted(Plain.tables)]
    return [*sizes, own, *kept, OBJECT.table is None, hasattr(in_function, "table")]


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    global TABLE
    TABLE = Plain.table = None
    for container in (KEPT, NOTED, LATEST, Plain.tables, vars(OBJECT), vars(in_function)):
        container.clear()  # type: ignore[attr-defined]
    for cached in (in_bounded_cache, in_cache, two_in_cache, object_in_cache, Net.own_table):
        cached.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("needs_numbers", [False, True], ids=["on meta", "on numbers"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_outside_is_as_it_was(way: Callable[[int], Tensor], needs_numbers: bool) -> None:
    model, x = Net(way, needs_numbers).eval(), torch.randn(2, 8)
    before = state()
    with assert_untouched(model):
        fresh = surgery.find_sites(model, x)
        surgery.transform(model, surgery.swap("prelu"), x)
    assert state() == before
    with torch.no_grad():
        wanted = model(x)
    assert state() != before
    again = surgery.find_sites(model, x)  # it has run before: what it keeps is real
    edited, _ = surgery.transform(model, surgery.swap("swish"), x)
    assert tuple(fresh) == tuple(again) == tuple(surgery.find_sites(model, x))
    assert len(fresh) == 2
    with torch.no_grad():
        assert torch.equal(model(x), wanted)
        assert edited(x).isfinite().all()


def test_what_was_there_before_stays() -> None:
    NOTED.append(first := torch.ones(1))
    KEPT[3] = second = torch.ones(3)
    surgery.find_sites(Net(in_lists), torch.randn(2, 8))
    surgery.find_sites(Net(in_dict), torch.randn(2, 8))
    assert len(NOTED) == 1
    assert NOTED[0] is first
    assert KEPT.keys() == {3}
    assert KEPT[3] is second


@pytest.mark.slow
def test_who_cannot_let_go_is_named() -> None:
    table = None

    def in_closure(size: int) -> Tensor:
        nonlocal table
        if table is None:
            table = ramp(size)
        return table

    assert_raises(CannotLook, lambda: surgery.find_sites(Net(in_closure), torch.randn(2, 8)), "Net", "enclosing")


def remembering(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator with its cache in a closure."""
    known = functools.lru_cache(function)
    return lambda *args: known(*args)


class Positioned(Stateful):
    """Caches positions behind a decorator before it reads a value."""

    @staticmethod
    @remembering
    def positions(like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + Positioned.positions(x))


@pytest.mark.parametrize("kind", [Stateful, Positioned])
def test_a_run_that_fails_leaves_nothing_to_collect(kind: type[Stateful], monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage collection takes time in a process with a large library."""

    asked: list[Any] = []
    monkeypatch.setattr(gc, "collect", asked.append)
    monkeypatch.setattr(gc, "get_referrers", lambda *values: asked.extend(values) or [])
    (found,) = surgery.find_sites(kind(), Stateful.example)  # which asks for a number, and fails without
    assert (found.activation, asked) == ("relu", [])


class FailsInTraining(nn.Module):
    """The arguments of the failing layer are also arguments of torch's code."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.fc = nn.ReLU(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x)
        return self.fc(x[:, :3]) if self.training else x


def test_a_call_that_fails_leaves_nothing_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    model, collections = FailsInTraining(), list[int]()
    model.fc.register_forward_hook(lambda *_: None)
    monkeypatch.setattr(gc, "collect", collections.append)
    (found,) = surgery.find_sites(model, torch.randn(2, 4))
    assert (found.modes, collections) == (("eval",), [])
