"""References: activation modules that a model's code calls past their registered names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from surgery.kinds import activation_of_module
from surgery.twin import shallow

References = Sequence[tuple[nn.Module, nn.Module]]  # what stood in a slot, and what stands there now


def reseated(model: nn.Module) -> References:
    """Put another module object into the slots of every activation of a twin; what was there still works.

    Whoever reaches an activation by its registered name calls the new object from now on. Whoever calls the old one
    holds it some other way, in a plain list or as a bound method, where an edit of the slot would not reach it.
    """
    seats: dict[int, tuple[nn.Module, nn.Module]] = {}
    todo = [model] if activation_of_module(model) is None else []
    visited = set(map(id, todo))
    while todo:
        parent = todo.pop()
        for name, child in parent._modules.items():
            if child is None:
                continue
            if id(child) in seats:
                parent._modules[name] = seats[id(child)][1]
            elif activation_of_module(child) is not None:
                seats[id(child)] = child, shallow(child)
                parent._modules[name] = seats[id(child)][1]
            elif id(child) not in visited:
                visited.add(id(child))
                todo.append(child)
    return list(seats.values())
