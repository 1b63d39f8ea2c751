"""Blocks: modules with one input and one output that are linear inside, with their skip, up to a last activation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from surgery.merging.forward import Forward, ModuleCall, Node
from surgery.merging.linear_map import NotMergeable
from surgery.merging.operations import Values, is_copy
from surgery.merging.sections import Section, Sites
from surgery.merging.units import Unit, macs, macs_of, map_between, nodes_between, why_fixed

_FUNCTIONS = ("relu", "silu")  # without parameters, called in the code of a block


@dataclass(frozen=True, slots=True)
class _End:
    """The last node of the linear part of a block, and the activation behind it: a child, a function, or none."""

    node: int
    kept: str = ""
    function: str = ""


def blocks_of(
    model: nn.Module, forward: Forward, values: Values, units: Iterable[Unit], sites: Sites
) -> Iterator[Section]:
    """The blocks that become one layer, outermost first, and those with erased sites that have no exact form."""
    units = list(units)
    done: list[str] = []
    for call in sorted(forward.calls, key=lambda call: call.start - call.end):
        if any(call.path.startswith(f"{path}.") for path in done) or any(unit.path == call.path for unit in units):
            continue
        section = _block(model, forward, values, call, units, sites)
        if section is not None:
            done += [call.path]
            yield section


def _block(
    model: nn.Module, forward: Forward, values: Values, call: ModuleCall, units: list[Unit], sites: Sites
) -> Section | None:
    inside = [unit for unit in units if unit.path.startswith(f"{call.path}.")]
    first = next((unit for unit in inside if unit.heavy and not unit.remains), None)
    own = any(node.module == call.path and node.linear is not None and not is_copy(node.linear)
              for node in forward.nodes[call.start : call.end])  # fmt: skip
    end = _end(forward, call) if own and first is not None and call.path else None
    if end is None or first is None or call.taken is None:
        return None
    nodes = nodes_between(forward, call.taken, end.node)
    erased = tuple(path for path in sites if path.startswith(f"{call.path}."))
    paths = tuple(unit.path for unit in inside)
    before = macs_of(forward, nodes, values)
    try:
        if reason := why_fixed(model, forward, call.path) or first.refusal or _read_outside(forward, nodes, end):
            raise NotMergeable(reason)
        made = map_between(forward, call.taken, end.node, values)[0]
    except NotMergeable as error:
        return Section(paths, call.taken, end.node, None, before, erased=erased, block=call.path,
                       reason=str(error)) if erased else None  # fmt: skip
    after = macs(made, forward.nodes[end.node].shape)
    if not erased and after > before:
        return None
    function = (end.function, ()) if end.function else None
    return Section(
        paths, call.taken, end.node, made, before, after, erased=erased, block=call.path,
        layer=first.path[len(call.path) + 1 :], kept=end.kept, function=function,
    )  # fmt: skip


def _end(forward: Forward, call: ModuleCall) -> _End | None:
    """Where the linear part of a module ends; None if something else is not linear, or it has no such form."""
    if call.taken is None or call.returned is None or call.returned == call.taken:
        return None
    last = forward.nodes[call.returned]
    sources = dict.fromkeys(last.reads)
    ends = [_End(call.returned)] if last.linear is not None else []
    if last.linear is None and len(sources) == 1:
        node = next(iter(sources))
        child = next((inner.path for inner in forward.calls if inner.taken == node and inner.returned == last.index
                      and inner.path.startswith(f"{call.path}.")), None)  # fmt: skip
        if child is not None and forward.times(child) == 1:
            ends = [_End(node, kept=child[len(call.path) + 1 :])]
        elif last.module == call.path and last.name.rstrip("_") in _FUNCTIONS:
            ends = [_End(node, function=last.name.rstrip("_"))]
    for end in ends:
        try:
            nodes_between(forward, call.taken, end.node)
        except NotMergeable:
            continue
        return end
    return None


def _read_outside(forward: Forward, nodes: list[Node], end: _End) -> str:
    """Why the nodes inside cannot vanish; "" if nothing else reads them."""
    inside = {node.index for node in nodes}
    for node in nodes:
        others = [reader for reader in forward.readers[node.index] if reader not in inside]
        if node.index == end.node:
            others = others[1:] if end.kept or end.function else []
        elif node.index in forward.outputs:
            return "a result inside of it is an output of the model"
        if others:
            return f"a result inside of it is also read in {forward.nodes[others[0]].module or 'the model'}"
    return ""
