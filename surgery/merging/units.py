"""Units: the modules of a model that are affine maps of one tensor, and how they follow each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from surgery.merging.forward import Forward, ModuleCall, Node
from surgery.merging.maps.linear_map import LinearMap, NotMergeable
from surgery.merging.maps.operations import is_copy
from surgery.merging.maps.values import Values

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A module whose own code is an affine map from node `taken` to node `returned`; `remains` are its children.

    Children that it calls on the result one after another, such as the activation in a norm of timm, are units of their
    own or none. `refusal` says why the module must stay as it is ("" if it need not).
    """

    path: str
    taken: int
    returned: int
    map: LinearMap
    axis: int | None
    heavy: bool
    macs: int
    remains: tuple[str, ...]
    refusal: str


def units_of(model: nn.Module, forward: Forward, values: Values) -> list[Unit]:
    """The units of a model, in order of execution."""
    found = (_unit(model, forward, call, values) for call in forward.calls)
    return sorted((unit for unit in found if unit is not None), key=lambda unit: unit.returned)


def map_between(forward: Forward, start: int, end: int, values: Values) -> tuple[LinearMap, int | None]:
    """The affine map that computes node `end` from node `start`, and its axis of channels (None: any).

    Raises:
        NotMergeable: it is none, or has no exact form.
    """
    between = nodes_between(forward, start, end)
    axes = {node.linear.axis for node in between if node.linear is not None} - {None}
    if len(axes) > 1:
        raise NotMergeable("its channels are on different axes")
    axis = next(iter(axes), None)
    dims = len(forward.nodes[start].shape)
    along = axis if axis is not None else (dims - 1 if dims < 4 else 1)
    maps: dict[int, LinearMap | None] = {start: None}  # None: the identity
    for node in between:
        assert node.linear is not None
        shape = forward.nodes[node.sources[0]].shape
        if node.linear.build is None:
            one, two = (_or_identity(maps[source], shape[along], values) for source in node.sources)
            made = one.plus(two.negated() if node.linear.sign < 0 else two)
        else:
            before = maps[node.sources[0]]
            if is_copy(node.linear):
                maps[node.index] = before
                continue
            own = values.finished(node.linear.build(values, shape[along]))
            made = own if before is None else before.then(own)
        maps[node.index] = values.finished(made)
    return _or_identity(maps[end], forward.nodes[start].shape[along], values), axis


def nodes_between(forward: Forward, start: int, end: int) -> list[Node]:
    """The nodes that compute `end` from `start`, in order; all are affine.

    Raises:
        NotMergeable: it is computed from something else, or by an operation that is not affine.
    """
    found: dict[int, Node] = {}
    todo = [end]
    while todo:
        node = forward.nodes[todo.pop()]
        if node.index == start or node.index in found:
            continue
        if node.linear is None:
            raise NotMergeable(node.why)
        if node.index < start:
            raise NotMergeable("it also reads another tensor")
        found[node.index] = node
        todo += node.sources
    return [found[index] for index in sorted(found)]


def macs_of(forward: Forward, nodes: Iterable[Node], values: Values) -> int:
    """The multiplications of the operations with weights among these nodes, for one sample."""
    total = 0
    for node in nodes:
        if node.linear is not None and node.linear.heavy and node.linear.build is not None:
            made = node.linear.build(values, forward.nodes[node.sources[0]].shape[node.linear.axis or 1])
            total += macs(made, node.shape)
    return total


def macs(made: LinearMap, shape: tuple[int, ...]) -> int:
    """The multiplications of a map for one sample of results of this shape."""
    return made.weight.numel() * (math.prod(shape[1:]) // made.outputs)


def why_fixed(model: nn.Module, forward: Forward, path: str) -> str:
    """Why a module, with all it contains, cannot be replaced; "" if it can."""
    module = model.get_submodule(path)
    for inner in module.modules():
        if any(getattr(inner, name) for name in _HOOKS):
            return "it has hooks"
        if is_parametrized(inner):
            return "it has parametrisations"
    if (times := forward.times(path)) > 1:
        return f"it is called {times} times"
    names = [f"{path}.{name}" for name, _ in (*module.named_parameters(), *module.named_buffers())]
    shared = [name for name in names if forward.weights[name] > 1]
    return f"{shared[0]} is also used elsewhere" if shared else ""


def _or_identity(made: LinearMap | None, channels: int, values: Values) -> LinearMap:
    return made if made is not None else values.finished(LinearMap.identity(channels))


def _unit(model: nn.Module, forward: Forward, call: ModuleCall, values: Values) -> Unit | None:
    if call.taken is None or not call.path:
        return None
    own = [node for node in forward.nodes[call.start : call.end] if node.module == call.path]
    if not own:
        return None
    end = own[-1].index
    inner = [other for other in forward.calls if other.path.startswith(f"{call.path}.") and call.start <= other.start
             and other.end <= call.end and "." not in other.path[len(call.path) + 1 :]]  # fmt: skip
    place = end
    for child in inner:  # called one after the other, behind its own code
        if child.taken != place or child.returned is None:
            return None
        place = child.returned
    if place != call.returned or (place != end and len(forward.readers[end]) > 1):
        return None
    try:
        made, axis = map_between(forward, call.taken, end, values)
        between = nodes_between(forward, call.taken, end)
    except NotMergeable:
        return None
    if all(node.linear is not None and is_copy(node.linear) for node in between):
        return None
    if any(reader >= call.end for node in between if node.index != end for reader in forward.readers[node.index]):
        return None  # a result inside of it is read elsewhere
    heavy = any(node.linear is not None and node.linear.heavy for node in between)
    remains = tuple(child.path[len(call.path) + 1 :] for child in inner)
    refusal = why_fixed(model, forward, call.path)
    weights = {
        name for node in between if node.linear is not None and node.linear.heavy for name in node.linear.weights
    }
    if heavy and remains:
        refusal = refusal or "it calls modules of its own"
    if not weights <= {f"{call.path}.weight", f"{call.path}.bias"}:
        refusal = refusal or "its weight is that of another module"
    costs = macs(made, forward.nodes[end].shape) if heavy or any(size > 1 for size in made.kernel) else 0
    return Unit(call.path, call.taken, end, made, axis, heavy, costs, remains, refusal)
