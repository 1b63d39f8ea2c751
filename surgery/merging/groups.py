"""Groups: what of a model can be merged into single layers, and what cannot, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, overload

from torch import nn

from surgery.look.example import Example
from surgery.merging.blocks import blocks_of, probed_block
from surgery.merging.forward import Forward, forward_of
from surgery.merging.maps.linear_map import LinearMap
from surgery.merging.maps.values import Values
from surgery.merging.sections import Section, chains_of, erased_sites, layer_path, unmerged
from surgery.merging.units import map_between, units_of
from surgery.text import html_table, table

_HEAD = ("group", "kind", "layers", "sites", "kernel", "stride", "groups", "MACs", "merged", "")


@dataclass(frozen=True, slots=True)
class LinearGroup:
    """Modules that together are one affine map, and the layer that computes it.

    `path` is the module whose place that layer takes: in a "chain" its first layer with weights, in a "block" the block
    itself. `layers` are the modules that are merged, `sites` the erased activations among them. `kernel`, `stride` and
    `groups` are those of the layer; MACs, multiplications for one sample of the example, are counted before and after.
    `reason` says why the group cannot be merged; "" if it can.
    """

    path: str
    kind: str
    layers: tuple[str, ...]
    sites: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    macs_before: int
    macs_after: int
    reason: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its row in a table."""
        count = (self.path, self.kind, str(len(self.layers)), str(len(self.sites)))
        if self.reason:
            return (*count, *("",) * 5, f"not merged: {self.reason}")
        sizes = ("x".join(map(str, self.kernel)) or "linear", "x".join(map(str, self.stride)))
        return (*count, *sizes, str(self.groups), f"{self.macs_before:,}", f"{self.macs_after:,}", "")


@dataclass(frozen=True, eq=False, repr=False)
class LinearGroups(Sequence[LinearGroup]):
    """The groups of a model in order of execution; prints as a table."""

    groups: tuple[LinearGroup, ...]
    model_kind: str

    @property
    def mergeable(self) -> tuple[LinearGroup, ...]:
        """Those that can be merged."""
        return tuple(group for group in self.groups if not group.reason)

    @property
    def refused(self) -> tuple[LinearGroup, ...]:
        """Those that cannot be merged."""
        return tuple(group for group in self.groups if group.reason)

    @overload
    def __getitem__(self, place: int) -> LinearGroup: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[LinearGroup, ...]: ...
    def __getitem__(self, place: int | slice) -> LinearGroup | tuple[LinearGroup, ...]:
        return self.groups[place]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[LinearGroup]:
        return iter(self.groups)

    def __repr__(self) -> str:
        return f"<LinearGroups: {self._summary()}>"

    def __str__(self) -> str:
        rows = table(_HEAD, [group.row for group in self.groups]) if self.groups else []
        return "\n".join([self._summary(), *(f"  {row}" for row in rows)])

    def _repr_html_(self) -> str:
        return html_table(_HEAD, [group.row for group in self.groups], above=[self._summary()])

    def _summary(self) -> str:
        return f"{self.model_kind}: {len(self.mergeable)} groups can be merged, {len(self.refused)} cannot"


def linear_groups(model: nn.Module, example: Any = None) -> LinearGroups:
    """List what lies between nonlinearities and is linear, and can become one layer by `merge`; and what cannot.

    A chain: convolutions or linear layers, the batch norms and affine stand-ins around them, where an activation
    between was erased, or where one layer takes no more multiplications than two. A convolution with its batch norm is
    one, too.
    A block: a module with one input and one output that is linear inside, with its skip, up to an activation that is
    its last call. Whatever has no exact form is listed with the reason.

    The model is not run, but a copy of it, in eval mode, on the meta device where that works; the padding and the sizes
    of kernels are those on the `example`, see `find_sites`.

    Raises:
        CannotLook: the model is wrapped or scripted, cannot be copied, or does not run.
    """
    forward = forward_of(model, Example.of(example, model))
    sections = sections_of(model, forward, Values(model, shapes_only=True))
    return LinearGroups(tuple(map(group_of, sections)), type(model).__name__)


def sections_of(model: nn.Module, forward: Forward, values: Values) -> list[Section]:
    """All that can become one layer, and what cannot, with its reason, in order of execution."""
    units, sites = units_of(model, forward, values), erased_sites(model, forward)
    blocks = list(blocks_of(model, forward, values, units, sites))
    merged = tuple(f"{section.block}." for section in blocks if not section.reason)
    outside = [unit for unit in units if not unit.path.startswith(merged)]
    found = [*blocks, *chains_of(forward, outside, sites)]
    found += unmerged(model, forward, units, sites, found)
    return sorted(found, key=lambda section: (section.taken, section.returned))


def exact_map(model: nn.Module, forward: Forward, section: Section) -> LinearMap:
    """The map of a section of a model, in float64.

    Raises:
        NotMergeable: there is none.
    """
    values = Values(model)
    if section.probe:
        return values.finished(probed_block(model, forward, section))
    if section.block is not None:
        return map_between(forward, section.taken, section.returned, values)[0]
    maps = [map_between(forward, unit.taken, unit.returned, values)[0] for unit in section.units]
    return values.finished(_joined(maps))


def _joined(maps: Sequence[LinearMap]) -> LinearMap:
    """One map for all, in turn: from the end with fewer features where all are linear layers, which is the cheaper."""
    if any(part.stride for part in maps) or maps[0].inputs <= maps[-1].outputs:
        return reduce(LinearMap.then, maps)
    return reduce(lambda behind, ahead: ahead.then(behind), reversed(maps))


def group_of(section: Section) -> LinearGroup:
    """A section, as users see it."""
    made = section.map
    sizes = (made.kernel, made.stride, made.groups) if made is not None else ((), (), 1)
    return LinearGroup(
        layer_path(section) or section.paths[0], "chain" if section.block is None else "block",
        section.paths, section.erased, *sizes, section.macs_before, section.macs_after, section.reason,
    )  # fmt: skip
