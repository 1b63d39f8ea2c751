"""Residual blocks: the basic modules as a whole, and whether they add what they compute to what entered them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from surgery.dataflow.reach import reach
from surgery.dataflow.trace import TRANSPARENT, Op, Trace
from surgery.look.blocks import joins_of
from surgery.look.site import BLOCK, Site
from surgery.model import is_inside, parents_of


@dataclass(frozen=True, slots=True)
class Residual:
    """Where a residual block stands in a trace: the operation whose result enters it, and those it consists of.

    It begins behind `source`, its result is that of `output`, and `last` is the last operation known to be its own.
    """

    source: int
    output: int
    last: int


def blocks_of(model: nn.Module, traces: Mapping[str, Trace], sites: Iterable[Site]) -> tuple[Site, ...]:
    """Every basic module as a whole, in order of execution; `locked` says why a block cannot be dropped.

    Modules of the same class as one that joins paths are listed, too, if they join none, such as those of MobileNetV2
    that reduce the size of the images.
    """
    mode, trace = next(iter(traces.items()))
    modules = dict(model.named_modules(remove_duplicate=False))
    joins = {path: own for path, own in joins_of(trace).items() if path in modules}
    residuals = [residuals_of(traced) for traced in traces.values()]
    found = {
        path: _block(path, type(modules[path]).__name__, own[0], tuple(traces), [each.get(path) for each in residuals])
        for path, own in joins.items()
    }
    kinds = {type(modules[path]) for path in joins}
    for site in sites:
        alike = (path for path in (site.owner, *parents_of(site.owner)) if path and type(modules.get(path)) in kinds)
        path = site.block or next(alike, None)
        if path is not None and path not in found and mode in site.modes:
            found[path] = _joinless(path, modules.get(path), site)
    begins = {path: _first(trace, path) for path in found}
    return tuple(found[path] for path in sorted(found, key=lambda path: begins[path]))


def residuals_of(trace: Trace) -> dict[str, Residual | str]:
    """By the path of each module that joins paths, where it stands, or a sentence why it cannot be dropped."""
    return {path: _residual(trace, path, joins) for path, joins in joins_of(trace).items()}


def _residual(trace: Trace, path: str, found: Iterable[Op]) -> Residual | str:
    joins = [op for op in found if op.kind == "add"]
    if not joins:
        return "it joins no paths by a sum"
    own, calls = _own(trace, path), _calls(trace, path)
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


def _own(trace: Trace, path: str) -> list[int]:
    """The operations that a module is known to make, without activations."""
    return [op.index for op in trace.ops if _belongs(op.weights, path) or is_inside(op.place, path)]


def _calls(trace: Trace, path: str) -> set[int]:
    """The activations that a module calls."""
    return {record.op for record in trace.calls if is_inside(record.owner, path)}


def _first(trace: Trace, path: str) -> int:
    """Where a block begins; a stage, at its first activation."""
    return min([*_own(trace, path), *_calls(trace, path)], default=len(trace.ops))


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


def _belongs(weights: Iterable[str], path: str) -> bool:
    return any(name.startswith(f"{path}.") for name in weights)


def _block(path: str, kind: str, join: Op, modes: tuple[str, ...], places: Iterable[Residual | str | None]) -> Site:
    """A module that joins paths, as a site; `places` are where it stands in each mode."""
    reasons = [place for place in places if isinstance(place, str)]
    return _site(path, kind, join.kind, join.shape, modes, path, reasons)


def _joinless(path: str, module: nn.Module | None, site: Site) -> Site:
    """A block that joins no paths, as a site: a stage, or a module around the call `site`."""
    if module is None:
        return _site(path, site.block_kind, None, site.shape, site.modes, None, ["it is not a module"])
    reason = "it joins no paths by a sum"
    return _site(path, type(module).__name__, None, site.shape, site.modes, path, [reason])


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
