"""Change: one write to a model with the previous value, and whether it can be undone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surgery.edit.graphs import graphs_of
from surgery.errors import CannotEdit
from surgery.model import MODES


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One write, with the previous value: a child, the class, an attribute or a graph of `module`.

    `put` is the new child.
    """

    what: str
    module: nn.Module
    name: str
    before: Any
    put: nn.Module | None = None

    def same_slot(self, other: Change) -> bool:
        """Whether the other one put a child where this one did."""
        return other.what == "child" and self.module is other.module and self.name == other.name


def check_ours(model: nn.Module, changes: Iterable[Change]) -> None:
    """Check that the modules inserted by changes, oldest first, are still there, so that undo loses nothing.

    Raises:
        CannotEdit: one was replaced since, or this is a copy that does not contain these modules.
    """
    changes, here = list(changes), {id(module) for module in model.modules()}
    rebuilt = any(graphs_of(module, MODES) != ["graph"] for module in model.modules())
    if rebuilt and any(id(change.module) not in here for change in changes):
        raise CannotEdit(
            "A copy of a graph module with one graph per mode is rebuilt, and cannot be undone.",
            asked=type(model).__name__, try_="the model it was copied from, or a fresh one",
        )  # fmt: skip
    last = {(id(change.module), change.name): change for change in changes if change.what == "child"}
    paths = {id(module): path for path, module in model.named_modules()}
    for change in last.values():
        now = change.module._modules.get(change.name)
        if now is not change.put:
            path = f"{paths.get(id(change.module), '')}.{change.name}".lstrip(".")
            raise CannotEdit(
                f"{path} is not the module that the edit put there.",
                asked=type(now).__name__, there=type(change.put).__name__,
                try_="put that module back, or use a copy made before",
            )  # fmt: skip


def catch_up(changes: Iterable[Change], home: torch.device, dtype: torch.dtype | None) -> None:
    """Move modules to be restored to the model's current device and dtype; None: the dtype is unchanged."""
    for change in changes:
        if change.what == "child" and change.before is not None:
            around = next(change.module.parameters(), next(change.module.buffers(), None))
            change.before.to(device=around.device if around is not None else home, dtype=dtype)
