"""Surroundings: names and containers are as they were recorded, without running anybody's code."""

from __future__ import annotations

import functools
from collections import deque
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from surgery.isolation.surroundings import ABSENT, Surroundings, attributes_of, drop, is_ours, put


class Thing:
    """Stands for a tensor, or for what holds one."""


class Guarded:
    """Its attributes cannot be read through itself."""

    def __init__(self) -> None:
        object.__setattr__(self, "value", 1)

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("code was run")


def made(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module


@pytest.mark.parametrize("kind", [list, deque, set])
def test_what_a_container_has_gained_goes(kind: type[Any]) -> None:
    old, new, other = Thing(), Thing(), Thing()
    container = kind([old])
    around = Surroundings()
    around.note(container)
    (container.add if kind is set else container.append)(new)
    (container.add if kind is set else container.append)(other)
    around.restore({id(new)})
    assert set(container) == {old, other}


def test_names_of_a_module_go_back_to_what_they_were() -> None:
    before, now, kept = Thing(), Thing(), Thing()
    module = made("library", latest=before, table={"a": before}, other=kept)
    around = Surroundings()
    around.note_module(vars(module))
    module.latest, module.added, module.other = now, now, before  # type: ignore[attr-defined]
    module.table["a"] = module.table["b"] = now
    around.restore({id(now)})
    assert module.latest is before and not hasattr(module, "added")
    assert module.table == {"a": before}
    assert module.other is before, "only what holds the thing is taken back"


def test_attributes_of_objects_and_classes_go_back() -> None:
    class Holder:
        shared: Any = None

    holder, now = Holder(), Thing()
    around = Surroundings()
    around.note(holder)
    around.note(Holder)
    holder.own, Holder.shared = [now], (now,)  # type: ignore[attr-defined]
    around.restore({id(now)})
    assert vars(holder) == {} and Holder.shared is None


def test_caches_that_hold_it_are_cleared_and_others_are_not() -> None:
    now = Thing()
    hit, miss = functools.cache(lambda: now), functools.cache(lambda: 1)
    module = made("library", hit=hit, miss=miss)
    around = Surroundings()
    around.note_module(vars(module))
    hit(), miss()
    around.restore({id(now)})
    assert hit.cache_info().currsize == 0 and miss.cache_info().currsize == 1


def test_parts_are_those_of_before() -> None:
    container, around = [1, 2], Surroundings()
    around.note(container)
    container.append(3)
    assert around.parts(container) == [1, 2]
    assert around.parts([1, 2]) is None


def test_attributes_are_read_without_running_code() -> None:
    assert attributes_of(Guarded()) == {"value": 1}
    assert attributes_of(3) is None and attributes_of([]) is None


def test_putting_and_dropping() -> None:
    table, thing = {"a": 1}, SimpleNamespace(a=1)
    for owner in (table, thing):
        put(owner, "a", 2)
        put(owner, "b", 3)
        put(owner, "a", ABSENT)
    assert table == vars(thing) == {"b": 3}
    first, second = Thing(), Thing()
    queue = deque([first, second, first], maxlen=3)
    drop(queue, [first])
    assert list(queue) == [second] and queue.maxlen == 3


@pytest.mark.parametrize(
    ("name", "ours"),
    [("torch.nn", True), ("surgery", True), ("pruning.ap", True), ("torchvision", False), (None, False)],
)
def test_ours_are_this_library_and_torch(name: str | None, ours: bool) -> None:
    assert is_ours(name) is ours
