"""References: activation modules that a model calls through something else than their registered names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from surgery.dataflow.operations import activation_of_module
from surgery.isolation.meta_copy import shallow


class Reseated(NamedTuple):
    """A registered activation module, its replacement, and the activation that both compute."""

    old: nn.Module
    new: nn.Module
    activation: str


References = Sequence[Reseated]


def reseated(model: nn.Module) -> References:
    """Replace every registered activation of a copy by another object that computes the same; the old ones still work.

    Code that reaches an activation by its registered name now calls the new object. Code that still calls the old one
    holds another reference to it, in a plain list or as a bound method, which replacing the child would not change.
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
