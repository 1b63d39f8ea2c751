"""Restructure: carry out the edits of whole blocks, which are dropped or have their padding moved, and prove them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from surgery.dataflow.trace import Trace
from surgery.edit.change import Change
from surgery.edit.same_traces import operation_facts
from surgery.edit.write import drop_children, set_paddings
from surgery.errors import CannotEdit, NotProved, about
from surgery.look.finder import find_sites
from surgery.look.residual_blocks import Residual, residuals_of
from surgery.look.site import BLOCK, Sites
from surgery.merging.padding import moved_padding
from surgery.plan.plan import Edit, Plan


def restructured(model: nn.Module, plan: Plan, now: Sites, changes: list[Change]) -> tuple[list[Change], Sites]:
    """Drop blocks, then move padding, as a plan says; return all changes and the sites found afterwards.

    `now` are the sites of the model as it is, after the `changes` that the plan makes at calls. Looks from before and
    after prove that the operations of dropped blocks are gone and all others as before, and that moved padding changes
    no other argument.

    Raises:
        CannotEdit: a block cannot be dropped, or no block has padding to move.
        NotProved: something else changed.
    """
    edits = [edit for edit in plan.edits if edit.site.activation == BLOCK]
    dropped = [edit for edit in edits if edit.make == "dropped"]
    if dropped:
        before, paths = now, [str(edit.site) for edit in dropped]
        _check_droppable(before, dropped)
        changes = [*changes, *drop_children(model, paths)]
        now = _found_again(model, before, dropped)
        _prove_dropped(before, now, dropped)
    moving = [edit for edit in edits if edit.make == "moved_padding"]
    if moving:
        before = now
        moved = _moved(model, now, moving, changes)
        if not moved:
            raise CannotEdit(
                "No padding can be moved.", asked="; ".join(dict.fromkeys(str(edit) for edit in moving)),
                try_="erase the activations between the convolutions of a block first, or leave move_padding out",
            )  # fmt: skip
        changes = [*changes, *set_paddings(model, moved)]
        now = _found_again(model, before, moving)
        _prove_moved(before, now, moving, set(moved))
    return changes, now


def _found_again(model: nn.Module, before: Sites, edits: Iterable[Edit]) -> Sites:
    with about(edit.site for edit in edits):
        return find_sites(model, before.example)


def _check_droppable(sites: Sites, edits: Iterable[Edit]) -> None:
    """Check again: an earlier edit of the same plan may have changed the block."""
    blocks = {str(site): site for site in sites.blocks}
    for edit in edits:
        reason = blocks[str(edit.site)].locked if str(edit.site) in blocks else "it is not there"
        if reason is not None:
            with about([edit.site]):
                raise CannotEdit(f"{edit.site} cannot be dropped: {reason}.", asked=str(edit))


def _traces(sites: Sites) -> Mapping[str, Trace]:
    return sites.look.traces if sites.look is not None else {}


def _prove_dropped(before: Sites, after: Sites, edits: Sequence[Edit]) -> None:
    found = _traces(after)
    for mode, trace in _traces(before).items():
        stand = residuals_of(trace)
        gone = [place for edit in edits if isinstance(place := stand.get(str(edit.site)), Residual)]
        if mode not in found or len(gone) < len(edits) or not _only_dropped(trace, found[mode], gone):
            _not_proved("Dropping changed more than the blocks", edits, mode)


def _only_dropped(before: Trace, after: Trace, gone: Sequence[Residual]) -> bool:
    """True if the second trace is the first without these blocks: their readers read what entered them."""
    exits = {residual.output: residual.source for residual in gone}
    became = {0: 0}
    left = list(after.ops[1:])
    for op in before.ops[1:]:
        sources = tuple(became.get(source) for source in op.inputs)
        following = left[0] if left else None
        if op.index in exits and exits[op.index] in became:
            became[op.index] = became[exits[op.index]]
        elif (
            following is not None and following.inputs == sources and operation_facts(following) == operation_facts(op)
        ):
            became[op.index] = left.pop(0).index
        elif not any(residual.source < op.index <= residual.last for residual in gone):
            return False
    return not left and tuple(filter(None, (became.get(op) for op in before.outputs))) == after.outputs


def _moved(
    model: nn.Module, sites: Sites, edits: Sequence[Edit], changes: Sequence[Change]
) -> dict[str, tuple[int, ...]]:
    """The new padding of the convolutions in the blocks of these edits, or of all where all blocks are named."""
    chosen = {str(edit.site): edit for edit in edits}
    if chosen.keys() >= set(map(str, sites.blocks)):
        return moved_padding(model, sites.example, changes=changes)
    for path, edit in chosen.items():
        if edit.site.module is None:
            raise CannotEdit(
                f"{path} is a stage of a plain network and not a module.", asked=str(edit),
                try_="move_padding() without a block, which moves the padding wherever it can",
            )  # fmt: skip
    return moved_padding(model, sites.example, blocks=list(chosen), changes=changes)


def _prove_moved(before: Sites, after: Sites, edits: Sequence[Edit], moved: set[str]) -> None:
    found = _traces(after)
    for mode, trace in _traces(before).items():
        if mode not in found or not _only_moved(trace, found[mode], moved):
            _not_proved("Moving padding changed more than the padding", edits, mode)


def _only_moved(before: Trace, after: Trace, moved: set[str]) -> bool:
    """True if both traces have the same operations, but for the arguments of these convolutions and sizes between."""
    if len(before.ops) != len(after.ops) or before.outputs != after.outputs:
        return False
    changed: set[int] = set()
    for op, now in zip(before.ops, after.ops, strict=True):
        if (op.kind, op.name, op.weights, op.inputs) != (now.kind, now.name, now.weights, now.inputs):
            return False
        touched = any(name.rpartition(".")[0] in moved for name in op.weights)
        if op.shape != now.shape:
            changed.add(op.index)
            if not touched and not changed & set(op.inputs):
                return False
        elif op.spelling != now.spelling and not touched and not changed & set(op.inputs):
            return False
    return not changed & set(before.outputs)


def _not_proved(what: str, edits: Sequence[Edit], mode: str) -> None:
    with about(edit.site for edit in edits):
        raise NotProved(
            f"{what} in {mode} mode; everything was undone.", asked="; ".join(str(edit) for edit in edits),
            try_="leave these blocks alone, or change the model's code",
        )  # fmt: skip
