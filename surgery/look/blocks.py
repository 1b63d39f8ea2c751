"""Blocks: the basic modules of a network, found from its data flow, never from the name of the model."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from surgery.dataflow.reach import reach
from surgery.dataflow.trace import SCALING, CallRecord, Op, Trace

CONTAINERS = ("ModuleList", "ModuleDict")
PLAIN = "stage"  # kind of a block in a network without joins: the convolutions between two pools


def block_facts(trace: Trace, roles: list[str], kind_of: dict[str, str]) -> list[dict[str, Any]]:
    """For each activation call: its block, the block's kind and join, its position in the block, and its branch.

    A block is the smallest module, never the whole model, whose forward itself joins paths of data by add or concat. In
    a transformer layer, which joins around attention, the blocks are the children that contain the calls. In a network
    without joins, they are the convolutions between two pools.
    """
    joins = joins_of(trace)
    attention = _attention(trace)
    paths = [_block_of(record, joins, attention, kind_of) for record in trace.calls]
    kinds = {path: kind_of.get(path, "") for path in paths if path is not None}
    if not any(op.kind in ("add", "concat") for op in trace.ops):
        paths = _stages(trace)
        kinds = {path: PLAIN for path in paths if path is not None}
    places = _positions(trace, roles, paths)
    facts = []
    for record, path, (position, positions) in zip(trace.calls, paths, places, strict=True):
        last = joins[path][-1] if path in joins else None
        facts.append(
            {
                "block": path,
                "block_kind": kinds[path] if path is not None else None,
                "position": position,
                "positions": positions,
                "joins_by": last.kind if last else None,
                "branch": _branch(trace, last, record.op) if last and last.kind == "concat" else None,
            }
        )
    return facts


def joins_of(trace: Trace) -> dict[str, list[Op]]:
    """The joins in each module's own forward, in order; the model itself is not a block.

    Without those that only rank and filter: how a detector chooses among its boxes depends on their number.
    """
    joins: dict[str, list[Op]] = {}
    ranking = _only_chosen_from(trace)
    for op in trace.ops:
        if op.kind in ("add", "concat") and op.place and op.index not in ranking:
            joins.setdefault(op.place, []).append(op)
    return joins


def _only_chosen_from(trace: Trace) -> set[int]:
    """The operations whose values become masks and indices alone."""

    def before(start: list[int]) -> set[int]:
        def inputs(place: int) -> tuple[int, ...]:
            return trace.ops[place].inputs if trace.ops[place].data else ()

        return set(reach(start, inputs, lambda place: trace.ops[place].kind != "choice"))

    chosen = [source for op in trace.ops if op.kind == "choice" for source in op.inputs]
    left = [op.index for op in trace.ops if op.kind == "unknown"]
    return before(chosen) - before([*trace.outputs, *left]) if trace.outputs else set()


def _attention(trace: Trace) -> list[str]:
    """Modules whose own forward computes attention: the fused function, or a softmax over products of data."""
    found = []
    for op in trace.ops:
        products = op.kind == "softmax" and any(
            before.kind == "matmul"
            for before in trace.back(op.index, lambda source: source.kind in ("shape", "scale", "add"))
        )
        if op.place is not None and (op.kind == "attention" or products):
            found.append(op.place)
    return found


def _block_of(
    record: CallRecord, joins: dict[str, list[Op]], attention: list[str], kind_of: dict[str, str]
) -> str | None:
    parts = record.owner.split(".")
    for size in range(len(parts), 0, -1):
        path = ".".join(parts[:size])
        if path not in joins:
            continue
        if any(place == path or place.startswith(path + ".") for place in attention):
            inner = size + 1
            while inner < len(parts) and kind_of.get(".".join(parts[:inner])) in CONTAINERS:
                inner += 1
            return ".".join(parts[:inner])
        return path
    return None


def _stages(trace: Trace) -> list[str | None]:
    """Stages of a plain network: a new one begins where a pool has followed a convolution."""
    stage, convolved, stages = 1, False, dict[int, int]()
    calls = {record.op: k for k, record in enumerate(trace.calls)}
    for op in trace.ops:
        if op.kind == "conv" and _collapses(trace, op):
            break  # the classifier, written as convolutions
        if op.kind == "conv":
            convolved = True
        elif op.kind == "pool" and convolved:
            stage, convolved = stage + 1, False
        elif op.index in calls and any(before.kind == "conv" for before in trace.back(op.index, _scaling)):
            stages[calls[op.index]] = stage
    owners = [trace.calls[k].owner.split(".") for k in stages]
    prefix = ".".join(same[0] for same in takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False)))
    return [f"{prefix}#{stages[k]}" if k in stages else None for k in range(len(trace.calls))]


def _collapses(trace: Trace, op: Op) -> bool:
    """True for a convolution whose kernel covers the whole image: in effect a linear layer."""
    before = trace.ops[op.inputs[0]].shape if op.inputs else ()
    return set(op.shape[2:]) == {1} and max(before[2:], default=1) > 1


def _scaling(op: Op) -> bool:
    return op.kind in (*SCALING, "add") and op.kind != "pool"


def _positions(trace: Trace, roles: list[str], paths: list[str | None]) -> list[tuple[int | None, int | None]]:
    """k of n among the nonlinearities of a block; repeated runs of the same code share the position of the first."""
    members: dict[str, dict[tuple[Any, ...], int]] = {}
    for record, role, path in zip(trace.calls, roles, paths, strict=True):
        if path is not None and role == "nonlinearity":
            seen = members.setdefault(path, {})
            seen.setdefault(record.key[:-1], len(seen) + 1)
    places: list[tuple[int | None, int | None]] = []
    for record, role, path in zip(trace.calls, roles, paths, strict=True):
        counted = path is not None and role == "nonlinearity"
        seen = members[path] if counted and path is not None else {}
        places.append((seen[record.key[:-1]], len(seen)) if counted else (None, None))
    return places


def _branch(trace: Trace, join: Op, start: int) -> int | None:
    """Index of the concat's operand that this call leads to; None if it leads to none or to several."""
    led = [k for k, operand in enumerate(_operands(trace, join)) if start in _ancestors(trace, operand, start)]
    return led[0] if len(led) == 1 else None


def _operands(trace: Trace, join: Op) -> list[int]:
    """The operands of a concat; a nested concat of the same module is flattened."""
    operands: list[int] = []
    for source in join.inputs:
        op = trace.ops[source]
        operands += _operands(trace, op) if op.kind == "concat" and op.place == join.place else [source]
    return operands


def _ancestors(trace: Trace, start: int, oldest: int) -> set[int]:
    """`start` and every operation it depends on, back to the operation `oldest`."""
    return {place for place in reach([start], lambda op: trace.ops[op].inputs, oldest.__le__) if place >= oldest}
