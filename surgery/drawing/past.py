"""Past: an edited model as it was, and what its history says of whole blocks and of rules."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from surgery.drawing.cells import DROPPED, MERGED, PADDING_MOVED
from surgery.errors import SurgeryError
from surgery.history.history import Step, steps_of
from surgery.isolation.meta_copy import copied
from surgery.look.site import BLOCK
from surgery.transforms import undo

# What an edit of a block as a whole makes of it.
BLOCK_NOTES = {"dropped": DROPPED, "moved_padding": PADDING_MOVED}


def as_it_was(model: nn.Module) -> nn.Module | None:
    """A copy of an edited model without its edits; None if it has none, or if one cannot be undone."""
    if not steps_of(model):
        return None
    try:
        return undo(copied(model))
    except (SurgeryError, RuntimeError):  # a structural step, a module replaced since, weights that cannot be copied
        return None


def notes_of(steps: Iterable[Step]) -> dict[str, str]:
    """What steps have made of blocks as a whole, by their paths."""
    notes = {}
    for step in steps:
        for edit in step.data.get("edits", ()):
            if edit["was"] == BLOCK:
                owner, _, name, *_ = edit["site"]
                notes[f"{owner}.{name}" if owner else name] = BLOCK_NOTES[edit["make"]]
        for replacement in step.data["replacements"] if step.kind == "merge" else ():
            if replacement["layer"] is not None:
                notes[replacement["path"]] = MERGED
    return notes


def rules_of(steps: Iterable[Step]) -> tuple[str, ...]:
    """The rules that steps were asked for."""
    return tuple(rule for step in steps for rule in step.data.get("asked", ()))
