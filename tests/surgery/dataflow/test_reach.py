"""Reach visits every node once, nearest first, and does not pass a node that it must not pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surgery.dataflow.reach import reach

GRAPH = {0: [1, 2], 1: [3], 2: [3, 0], 3: [4], 4: []}


def test_nearest_first_and_each_once() -> None:
    assert list(reach([0], GRAPH.__getitem__, lambda _: True)) == [0, 1, 2, 3, 4]
    assert list(reach([2, 1], GRAPH.__getitem__, lambda _: True)) == [2, 1, 3, 0, 4]


def test_what_ends_the_walk_is_reached() -> None:
    assert list(reach([0], GRAPH.__getitem__, lambda node: node in (0, 1))) == [0, 1, 2, 3]
    assert list(reach([], GRAPH.__getitem__, lambda _: True)) == []


@given(st.lists(st.sets(st.integers(0, 7)), min_size=8, max_size=8), st.sets(st.integers(0, 7)))
def test_it_is_the_least_set_that_is_closed(edges: list[set[int]], ends: set[int]) -> None:
    found = set(reach([0], edges.__getitem__, lambda node: node not in ends))
    closed = {0}
    while (more := closed.union(*(edges[node] for node in closed - ends))) != closed:
        closed = more
    assert found == closed
