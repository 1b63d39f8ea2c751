"""Reach: the walk over a graph, for whoever asks what lies before or behind a node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def reach(start: Iterable[T], edges: Callable[[T], Iterable[T]], through: Callable[[T], bool]) -> Iterator[T]:
    """The nodes of `start` and all that their edges lead to, nearest first, each once.

    The edges of a node are followed only if the walk goes `through` it; a node that ends the walk is among the result.
    """
    todo, seen = deque(start), set[T]()
    while todo:
        node = todo.popleft()
        if node not in seen:
            seen.add(node)
            if through(node):
                todo.extend(edges(node))
            yield node
