"""Blocks: modules with one input and one output that are linear inside, with their skip, up to a last activation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from surgery.edit.write import put_modules
from surgery.merging.forward import Forward, ModuleCall, Node
from surgery.merging.maps.linear_map import LinearMap, NotMergeable
from surgery.merging.maps.operations import is_copy
from surgery.merging.maps.values import Values
from surgery.merging.probe import probed
from surgery.merging.sections import Section, Sites
from surgery.merging.units import Unit, macs, macs_of, map_between, nodes_between, why_fixed

_FUNCTIONS = ("relu", "silu")  # without parameters, called in the code of a block
# Kinds of operations that may be linear though no rule says so.
_UNSURE = ("unknown", "other", "shape", "concat", "paste", "conv", "linear", "matmul", "resize", "scale")


@dataclass(frozen=True, slots=True)
class _End:
    """The last node of the linear part of a block, and the activation behind it: a child, a function, or none."""

    node: int
    kept: str = ""
    function: str = ""


def blocks_of(
    model: nn.Module, forward: Forward, values: Values, units: Iterable[Unit], sites: Sites
) -> Iterator[Section]:
    """The blocks that become one layer, outermost first, and those with erased sites that have no exact form.

    Of blocks in each other that have none, the innermost is named.
    """
    units = list(units)
    found: dict[str, Section] = {}
    for call in sorted(forward.calls, key=lambda call: call.start - call.end):
        around = [path for path in found if call.path.startswith(f"{path}.")]
        if any(not found[path].reason for path in around) or any(unit.path == call.path for unit in units):
            continue
        section = _block(model, forward, values, call, units, sites)
        if section is not None:
            for path in around:
                del found[path]
            found[call.path] = section
    yield from found.values()


def probed_block(model: nn.Module, forward: Forward, section: Section) -> LinearMap:
    """The map of a block, up to the child that is kept behind it, read off its Jacobian.

    Raises:
        NotMergeable: there is none.
    """
    assert section.block is not None
    alone = copy.deepcopy(model.get_submodule(section.block))
    if section.kept:
        put_modules(alone, {section.kept: nn.Identity()})
    return probed(alone, forward.nodes[section.taken].shape)


def _block(
    model: nn.Module, forward: Forward, values: Values, call: ModuleCall, units: list[Unit], sites: Sites
) -> Section | None:
    inside = [unit for unit in units if unit.path.startswith(f"{call.path}.")]
    first = next((unit for unit in inside if unit.heavy and not unit.remains), None)
    if first is None or call.taken is None or not call.path:
        return None
    nodes = forward.nodes[call.start : call.end]
    end = _end(forward, call)
    erased = tuple(path for path in sites if path.startswith(f"{call.path}."))
    if end is None or not any(node.module == call.path and not _copies(node) for node in nodes):
        return None
    try:
        way, probe = nodes_between(forward, call.taken, end.node), False
    except NotMergeable:
        # What is not known to be linear may be: it is found out by running it.
        way, probe = [node for node in nodes if node.index <= end.node], True
        if not erased or end.function or any(not node.linear and node.kind not in _UNSURE for node in way):
            return None
    found = Section(
        tuple(unit.path for unit in inside), call.taken, end.node, None, macs_of(forward, way, values), erased=erased,
        block=call.path, layer=first.path[len(call.path) + 1 :], kept=end.kept, probe=probe,
        function=(end.function, ()) if end.function else None,
    )  # fmt: skip
    try:
        if reason := why_fixed(model, forward, call.path) or first.refusal or _read_outside(forward, way, end):
            raise NotMergeable(reason)
        if any(call.taken > source for node in way for source in node.reads):
            raise NotMergeable("it also reads another tensor")
        made = probed_block(model, forward, found) if probe else map_between(forward, call.taken, end.node, values)[0]
    except NotMergeable as error:
        return replace(found, reason=str(error)) if erased else None
    after = macs(made, forward.nodes[end.node].shape)
    return replace(found, map=values.finished(made), macs_after=after) if erased or after <= found.macs_before else None


def _end(forward: Forward, call: ModuleCall) -> _End | None:
    """Where the linear part of a module ends, if it is linear up to a last activation; None if it cannot be."""
    if call.returned is None or call.returned == call.taken:
        return None
    last = forward.nodes[call.returned]
    if last.kind != "activation":
        return _End(call.returned)
    sources = dict.fromkeys(last.reads)
    if len(sources) != 1:
        return None
    node = next(iter(sources))
    child = next((inner.path for inner in forward.calls if inner.taken == node and inner.returned == last.index
                  and inner.path.startswith(f"{call.path}.")), None)  # fmt: skip
    if child is not None:
        return _End(node, kept=child[len(call.path) + 1 :]) if forward.times(child) == 1 else None
    function = last.name.strip("_")
    return _End(node, function=function) if last.module == call.path and function in _FUNCTIONS else None


def _copies(node: Node) -> bool:
    return node.linear is not None and is_copy(node.linear)


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
