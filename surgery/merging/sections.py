"""Sections: what becomes one layer; and those that are chains of modules, one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surgery.activations import Affine, Copy
from surgery.dataflow.operations import activation_of_module
from surgery.edit.change import Change
from surgery.history.history import histories_of
from surgery.merging.forward import Forward
from surgery.merging.maps.linear_map import LinearMap, NotMergeable
from surgery.merging.maps.operations import is_copy
from surgery.merging.units import Unit, macs

Sites = Mapping[str, Set[int]]  # the paths of erased sites, and the nodes that each is called on


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """What becomes one layer: the modules on the way, from node `taken` to node `returned`, and the map.

    A chain has its `units`; a block is one module, `block`, whose layer is called `layer` there and is followed by the
    child `kept` or a `function`; with `probe` its map is read off its Jacobian. `erased` are the sites inside.
    `reason`: why there is no such layer ("" if there is one).
    """

    paths: tuple[str, ...]
    taken: int
    returned: int
    map: LinearMap | None
    macs_before: int = 0
    macs_after: int = 0
    units: tuple[Unit, ...] = ()
    erased: tuple[str, ...] = ()
    block: str | None = None
    layer: str = ""
    kept: str = ""
    function: tuple[str, tuple[tuple[str, float], ...]] | None = None
    probe: bool = False
    reason: str = ""


@dataclass(slots=True)
class _Finder:
    forward: Forward
    units: list[Unit]
    sites: Sites
    refused: list[Section] = field(default_factory=list)

    def chains(self) -> Iterator[Section]:
        """The chains that can be merged; what cannot goes into `refused`."""
        behind = {unit.returned: unit for unit in self.units}
        before = {unit.path: self.before(unit, behind) for unit in self.units}
        followed = {unit.path for unit in before.values() if unit is not None}
        follower = {unit.path: other for other in self.units if (unit := before[other.path]) is not None}
        for unit in self.units:
            if before[unit.path] is None:
                chain = [unit]
                while chain[-1].path in followed:
                    chain.append(follower[chain[-1].path])
                yield from self.cut(chain)

    def before(self, unit: Unit, behind: dict[int, Unit]) -> Unit | None:
        """The unit whose result is read by this one alone, at most copied on the way."""
        first = behind.get(self.origin(unit.taken))
        if first is None or first.refusal or unit.refusal:
            return None
        return first if not self.why_read_elsewhere(first.returned, unit.taken) else None

    def origin(self, node: int) -> int:
        """The node that a node is a copy of."""
        while (made := self.forward.nodes[node]).linear is not None and is_copy(made.linear):
            node = made.reads[0]
        return node

    def why_read_elsewhere(self, node: int, end: int) -> str:
        """Why the nodes from `node` to its copy `end` cannot vanish; "" if each is read once."""
        place = end
        while True:
            readers = self.forward.readers[place]
            if len(readers) > 1:
                where = sorted({self.forward.nodes[reader].module or "the model" for reader in readers})
                return f"its result is read {len(readers)} times, in {' and '.join(where[:2])}"
            if place in self.forward.outputs:
                return "its result is an output of the model"
            if place == node:
                return ""
            place = self.forward.nodes[place].reads[0]

    def between(self, first: Unit, last: Unit) -> list[str]:
        """The erased sites between two units."""
        nodes, place = {first.returned}, last.taken
        while place != first.returned:
            nodes.add(place)
            place = self.forward.nodes[place].reads[0]
        return [path for path, own in self.sites.items() if own & nodes and path not in (first.path, last.path)]

    def cut(self, chain: list[Unit]) -> Iterator[Section]:
        """Cut a chain into sections, each as long as it can be and as it is worth."""
        section = _started(chain[0])
        linked = False  # whether an activation was erased since the last layer with weights
        for last, unit in pairwise(chain):
            erased = self.between(last, unit) + ([unit.path] if unit.path in self.sites else [])
            linked = linked or bool(erased)
            assert section.map is not None
            try:
                if _differ(section, unit):
                    raise NotMergeable("its channels are on different axes")
                made = section.map.then(unit.map)
            except NotMergeable as error:
                if linked or not unit.heavy:
                    paths = (*section.paths, unit.path)
                    self.refused.append(replace(section, paths=paths, erased=(*section.erased, *erased),
                                                map=None, reason=str(error)))  # fmt: skip
                made = None
            cost = macs(made, self.forward.nodes[unit.returned].shape) if made is not None else 0
            # A pool goes into a layer only where an activation was erased: the layer has more weights then.
            worth = unit.macs == 0 or section.macs_before == 0
            worth = worth or linked or (unit.heavy and cost <= section.macs_after + unit.macs)
            if made is None or not worth:
                yield section
                section, linked = _started(unit), False
                continue
            linked = linked and not unit.heavy
            section = replace(
                section, paths=(*section.paths, unit.path), returned=unit.returned, map=made,
                macs_before=section.macs_before + unit.macs, macs_after=cost,
                units=(*section.units, unit), erased=(*section.erased, *erased),
            )  # fmt: skip
        yield section


def chains_of(forward: Forward, units: list[Unit], sites: Sites) -> Iterator[Section]:
    """The chains that become one layer, and those with erased sites that have no exact form."""
    finder = _Finder(forward, units, sites)
    yield from (section for section in finder.chains() if len(section.units) > 1 and _layer_of(section))
    yield from finder.refused


def unmerged(
    model: nn.Module, forward: Forward, units: list[Unit], sites: Sites, found: Iterable[Section]
) -> Iterator[Section]:
    """The erased sites, batch norms and layers beside others that are in no section, with the reason."""
    known = {path for section in found for path in (*section.paths, *section.erased)}
    of = {unit.path: unit for unit in units}
    taken, returned = {unit.taken for unit in units}, {unit.returned for unit in units}
    alone = {path: max(nodes) for path, nodes in sites.items()}
    alone |= {
        unit.path: unit.taken for unit in units if isinstance(model.get_submodule(unit.path), _BatchNorm)
        or (unit.refusal and (unit.taken in returned or unit.returned in taken))
    }  # fmt: skip
    for path, node in alone.items():
        if path not in known:
            unit = of.get(path)
            reason = (unit.refusal if unit else "") or _why_alone(forward, units, node, unit.returned if unit else node)
            yield Section((path,), node, node, None, erased=(path,) if path in sites else (), reason=reason)


def _why_alone(forward: Forward, units: list[Unit], taken: int, returned: int) -> str:
    """Why what computes node `returned` from node `taken` is merged with nothing beside it."""
    refused = next((f"{unit.path}: {unit.refusal}" for unit in units
                    if unit.refusal and (unit.returned == taken or unit.taken == returned)), "")  # fmt: skip
    if refused:
        return refused
    nodes = forward.nodes
    while len(readers := forward.readers[returned]) == 1 and (made := nodes[readers[0]].linear) and is_copy(made):
        returned = readers[0]
    for what, node in (("result", returned), ("input", taken)):
        if len(readers := forward.readers[node]) > 1:
            where = sorted({nodes[reader].module or "the model" for reader in readers})
            return f"its {what} is read {len(readers)} times, in {' and '.join(where[:2])}"
    beside = [nodes[taken], *(nodes[reader] for reader in forward.readers[returned])]
    whys = [node.why for node in beside if node.why]
    joined = any(node.linear is not None and node.linear.build is None for node in beside)
    return next(iter(whys), "a sum is beside it" if joined else "the layers beside it have no exact product")


def layer_path(section: Section) -> str:
    """The path of the module whose place the merged layer takes."""
    return section.block if section.block is not None else _layer_of(section)


def _layer_of(section: Section) -> str:
    return next((unit.path for unit in section.units if unit.heavy), "")


def _started(unit: Unit) -> Section:
    return Section((unit.path,), unit.taken, unit.returned, unit.map, unit.macs, unit.macs, (unit,))


def _differ(section: Section, unit: Unit) -> bool:
    axes = {part.axis for part in (*section.units, unit)} - {None}
    return len(axes) > 1


def erased_sites(model: nn.Module, forward: Forward, changes: Iterable[Change] = ()) -> Sites:
    """The sites whose activation was erased or made affine, with the nodes that each is called on.

    `changes` are those of an edit that is not in the history yet.
    """
    steps = [step for history in histories_of(model) for step in history.steps]
    done = (change for step in steps if step.kind == "surgery" for change in step.changes)
    put = {id(change.put) for change in (*done, *changes) if _erases(change)}
    folded = {path for step in steps for path in step.data.get("folded", ())}
    found: dict[str, set[int]] = {}
    for call in forward.calls:
        module = model.get_submodule(call.path)
        erased = id(module) in put or isinstance(module, Affine) or call.path in folded
        if call.taken is not None and erased:
            found.setdefault(call.path, set()).add(call.taken)
    return found


def _erases(change: Change) -> bool:
    """Whether a change erases an activation, rather than a block."""
    was = change.before
    activation = was is None or (isinstance(was, nn.Module) and activation_of_module(was) is not None)
    return activation and isinstance(change.put, nn.Identity | Copy | Affine)
