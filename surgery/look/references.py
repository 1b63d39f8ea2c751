"""References: activation modules that a model's code calls past their registered names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from surgery.dataflow.operations import activation_of_module
from surgery.isolation.meta_copy import shallow


class Reseated(NamedTuple):
    """An activation module that stood in a slot, the one that stands there now, and what both compute."""

    old: nn.Module
    new: nn.Module
    activation: str


References = Sequence[Reseated]


def reseated(model: nn.Module) -> References:
    """Put another module object into the slots of every activation of a twin; what was there still works.

    Whoever reaches an activation by its registered name calls the new object from now on. Whoever calls the old one
    holds it some other way, in a plain list or as a bound method, where an edit of the slot would not reach it.
    """
    seats: dict[int, Reseated] = {}
    todo = [model] if activation_of_module(model) is None else []
    visited = set(map(id, todo))
    while todo:
        parent = todo.pop()
        for name, child in parent._modules.items():
            if child is None or id(child) in visited:
                continue
            if id(child) not in seats:
                activation = activation_of_module(child)
                if activation is None:
                    visited.add(id(child))
                    todo.append(child)
                    continue
                seats[id(child)] = Reseated(child, shallow(child), activation)
            parent._modules[name] = seats[id(child)].new
    return list(seats.values())
