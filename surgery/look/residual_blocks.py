"""Residual blocks: the basic modules as a whole, and whether they add what they compute to what entered them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from surgery.dataflow.reach import reach
from surgery.dataflow.trace import TRANSPARENT, Op, Trace
from surgery.look.blocks import joins_of
from surgery.look.site import BLOCK, Site


@dataclass(frozen=True, slots=True)
class Residual:
    """Where a residual block stands in a trace: the operation whose result enters it, and those it consists of.

    It begins behind `source`, its result is that of `output`, and `last` is the last operation known to be its own.
    """

    source: int
    output: int
    last: int


def blocks_of(model: nn.Module, traces: Mapping[str, Trace], sites: Iterable[Site]) -> tuple[Site, ...]:
    """Every basic module as a whole, in order of execution; `locked` says why a block cannot be dropped."""
    mode, trace = next(iter(traces.items()))
    joins = joins_of(trace)
    found = {path: _block(model, traces, path, joins[path][0].index) for path in joins}
    for site in sites:  # stages of plain networks are not modules
        if site.block is not None and site.block not in found and mode in site.modes:
            found[site.block] = _joinless(model, site)
    return tuple(found.values())


def residual_of(trace: Trace, path: str) -> Residual | str:
    """Where the residual block at a path stands, or a sentence why it is none that can be dropped."""
    joins = [op for op in joins_of(trace).get(path, ()) if op.kind == "add"]
    if not joins:
        return "it joins no paths by a sum"
    own = [op.index for op in trace.ops if _belongs(op.weights, path) or _inside(op.place, path)]
    calls = {record.op for record in trace.calls if _inside(record.owner, path)}
    first, last = min([*own, *calls]), max([*own, *calls])
    join = joins[-1]
    while True:
        shortcut = _shortcut(trace, join, first)
        if shortcut is None or "sub" in join.name:
            return "its shortcut is not the identity"
        if shortcut.index < first:
            break
        if shortcut.kind != "add" or shortcut.place != path:
            return "its shortcut is not the identity"
        join = shortcut
    behind = trace.ops[joins[-1].index + 1 : last + 1]
    if any(op.index not in calls and op.kind not in TRANSPARENT for op in behind):
        return "it computes more than an activation behind its sum"
    output = trace.ops[last]
    if shortcut.index and output.shape != shortcut.shape:
        output = _reshaped_back(trace, output, shortcut.shape)
    if shortcut.index and output.shape != shortcut.shape:
        return "its output has another shape than its input"
    return Residual(shortcut.index, output.index, max(output.index, last))


def _shortcut(trace: Trace, join: Op, first: int) -> Op | None:
    """The operand of a sum that the other operand is computed from; None without such a pair.

    Where it was reshaped behind the operation `first`, as images are to tokens and back, it is what was.
    """
    if len(set(join.inputs)) != 2:
        return None
    early, late = sorted(join.inputs)
    while early > first and trace.ops[early].kind in TRANSPARENT and len(trace.ops[early].inputs) == 1:
        early = trace.ops[early].inputs[0]
    before = reach([late], lambda place: trace.ops[place].inputs, early.__le__)
    return trace.ops[early] if early in before else None


def _reshaped_back(trace: Trace, op: Op, shape: tuple[int, ...]) -> Op:
    """The reshape to this shape that alone reads the result of an operation; the operation itself without one."""
    readers = [reader for reader in trace.ops[op.index + 1 :] if op.index in reader.inputs]
    alone = len(readers) == 1 and readers[0].kind in TRANSPARENT and readers[0].shape == shape
    return readers[0] if alone else op


def _inside(place: str | None, path: str) -> bool:
    return place is not None and (place == path or place.startswith(f"{path}."))


def _belongs(weights: Iterable[str], path: str) -> bool:
    return any(name.startswith(f"{path}.") for name in weights)


def _block(model: nn.Module, traces: Mapping[str, Trace], path: str, join: int) -> Site:
    """A module that joins paths, as a site."""
    op = next(iter(traces.values())).ops[join]
    reasons = [found for trace in traces.values() if isinstance(found := residual_of(trace, path), str)]
    return _site(path, type(model.get_submodule(path)).__name__, op.kind, op.shape, tuple(traces), path, reasons)


def _joinless(model: nn.Module, site: Site) -> Site:
    """The block that a call is in, as a site, where it joins no paths: a stage, or a part of a transformer layer."""
    path = str(site.block)
    module = path if path in dict(model.named_modules()) else None
    reason = "it is not a module" if module is None else "it joins no paths by a sum"
    return _site(path, site.block_kind, None, site.shape, site.modes, module, [reason])


def _site(
    path: str,
    kind: str | None,
    joins_by: str | None,
    shape: tuple[int, ...],
    modes: tuple[str, ...],
    module: str | None,
    reasons: list[str],
) -> Site:
    owner, _, name = path.rpartition(".")
    return Site(
        owner=owner, method="", callee=name, ordinal=1, iteration=None, run=1, runs=1, target=name, turn=1, turns=1,
        owner_kind="", module=module, activation=BLOCK, inplace=False, role=BLOCK, block=path, block_kind=kind,
        position=None, positions=None, joins_by=joins_by, branch=None, fed_by=(), feeds=(), weights=(), shape=shape,
        channels=1, channel_axis=0, dtype="", device="", modes=modes, locked=next(iter(reasons), None),
    )  # fmt: skip
