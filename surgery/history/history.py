"""History: the steps that turned a plain model into an edited one, stored in the model as plain data."""

from __future__ import annotations

import copy
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from surgery.model import HISTORY


class _Pickled:
    """Unpickles with all fields, also from a pickle of an earlier version that lacks some."""

    __slots__ = ()

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        kept = state[1]
        for part in fields(self):  # type: ignore[arg-type]
            made = part.default if part.default_factory is MISSING else part.default_factory()
            setattr(self, part.name, kept.get(part.name, made))


@dataclass(slots=True, eq=False, repr=False)
class Step(_Pickled):
    """One step: its kind ("surgery", or one that another package registered), its data, the fingerprint before it.

    `changes` is what `undo` reverts; empty for a step of another kind. `dtype` is the dtype of the model at the time;
    `left` and `buffers` are the parameters (names and shapes) and the names of the buffers after the step, `numbers`
    the integer attributes of the layers then.
    """

    kind: str
    data: dict[str, Any]
    fingerprint: str | None
    changes: list[Any] = field(default_factory=list)
    dtype: torch.dtype | None = None
    left: list[Any] | None = None
    buffers: frozenset[str] = frozenset()
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)

    def __repr__(self) -> str:
        edits = [f"{len(self.data['edits'])} edits"] if "edits" in self.data else []
        return f"Step({', '.join([repr(self.kind), *edits, *self.data.get('asked', ())])})"


@dataclass(slots=True, eq=False, repr=False)
class History(_Pickled):
    """The steps of one model, oldest first, and the progress and training step last set on it."""

    steps: list[Step] = field(default_factory=list)
    progress: tuple[float, int] | None = None
    resting: list[str] = field(default_factory=list)  # weights that are frozen while slopes learn

    def __repr__(self) -> str:
        return f"History({self.steps}, progress={self.progress})"


def histories_of(model: nn.Module) -> list[History]:
    """The histories inside a model, outermost first: its own, or those of edited models that it wraps."""
    found = (module.__dict__.get(HISTORY) for module in model.modules())
    return [history for history in found if history is not None]


def resting_weights(model: nn.Module) -> set[int]:
    """The ids of the weights that are frozen while slopes learn."""
    found = set()
    for module in model.modules():
        history: History | None = module.__dict__.get(HISTORY)
        named = dict(module.named_parameters()) if history is not None and history.resting else {}
        found |= {id(named[name]) for name in (history.resting if history else ()) if name in named}
    return found


def history_of(model: nn.Module) -> tuple[Step, ...]:
    """The steps that were applied to a model, oldest first; empty for one that was never edited.

    They are copies: changing them does not change the model's own records.
    """
    return tuple(replace(step, data=copy.deepcopy(step.data), changes=list(step.changes)) for step in steps_of(model))


def steps_of(model: nn.Module) -> tuple[Step, ...]:
    """The model's own records of its steps, oldest first."""
    history: History | None = model.__dict__.get(HISTORY)
    return tuple(history.steps) if history is not None else ()
