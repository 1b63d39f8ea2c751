"""Padding: where the padding of convolutions that are to be merged goes, so that they can be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from surgery.edit.change import Change
from surgery.errors import UnknownName, nearest
from surgery.look.example import Example
from surgery.merging.forward import forward_of
from surgery.merging.maps.linear_map import SIZED
from surgery.merging.maps.values import Values
from surgery.merging.sections import chains_of, erased_sites
from surgery.merging.units import Unit, units_of
from surgery.model import is_inside

Paddings = dict[str, tuple[int, ...]]  # by the path of the convolution, one number per spatial axis


def moved_padding(
    model: nn.Module, example: Any = None, *, blocks: Iterable[str] | None = None, changes: Iterable[Change] = ()
) -> Paddings:
    """The padding of each convolution in a chain to be merged, once all of it is on the first one.

    A convolution that pads with zeros behind a bias, a norm or a kernel has no exact merge at the border. With the
    padding p1 + s1 p2 on the first convolution of stride s1, and none on the second, it has one, and all shapes
    are the same from behind the chain on; what the convolutions see at the border is not. The chains are those that
    `linear_groups` would list, in all of the model or inside these `blocks`; only convolutions whose padding changes
    are returned. `changes` are those of an edit that is not in the history yet. Nothing is changed.

    Raises:
        UnknownName: the model does not have one of these blocks.
        CannotLook: as `linear_groups`.

    Source: Kim et al. 2023, "Efficient latency-aware CNN depth compression via two-stage dynamic programming".
    """
    places = _checked(model, blocks)
    forward = forward_of(model, Example.of(example, model))
    units = units_of(model, forward, Values(model, shapes_only=True))
    own = {unit.path: unit for unit in units}
    moved: Paddings = {}
    for chain in chains_of(forward, [_unpadded(unit) for unit in units], erased_sites(model, forward, changes)):
        inside = [own[unit.path] for unit in chain.units if _is_inside(unit.path, places)]
        if not chain.reason and inside:
            moved |= _moved(inside)
    return moved


def _moved(chain: list[Unit]) -> Paddings:
    """The new paddings in one chain; empty where they stay, or cannot be moved."""
    maps = [unit.map for unit in chain]
    convolutions = [unit for unit in chain if unit.heavy and unit.map.kernel]
    plain = all(made.mode == "zeros" and all(low == high for low, high in made.padding) for made in maps)
    others = any(made.pads for unit, made in zip(chain, maps, strict=True) if unit not in convolutions)
    if not plain or others or not any(unit.map.pads for unit in convolutions[1:]):
        return {}
    total, stride = (0,) * len(convolutions[0].map.stride), (1,) * len(convolutions[0].map.stride)
    for unit in convolutions:
        sides = zip(total, stride, unit.map.padding, strict=True)
        total = tuple(sum_ + step * low for sum_, step, (low, _) in sides)
        stride = tuple(a * b for a, b in zip(stride, unit.map.stride, strict=True))
    wanted = {unit.path: (0,) * len(total) for unit in convolutions} | {convolutions[0].path: total}
    now = {unit.path: tuple(low for low, _ in unit.map.padding) for unit in convolutions}
    return {path: padding for path, padding in wanted.items() if now[path] != padding}


def _unpadded(unit: Unit) -> Unit:
    if unit.map.mode == SIZED:
        return unit
    return replace(unit, map=replace(unit.map, padding=((0, 0),) * len(unit.map.padding)))


def _is_inside(path: str, blocks: tuple[str, ...] | None) -> bool:
    return blocks is None or any(is_inside(path, block) for block in blocks)


def _checked(model: nn.Module, blocks: Iterable[str] | None) -> tuple[str, ...] | None:
    if blocks is None:
        return None
    known, asked = {path for path, _ in model.named_modules(remove_duplicate=False)}, tuple(blocks)
    for path in asked:
        if path not in known:
            raise UnknownName(f"{type(model).__name__} has no module {path}.", asked=f"blocks={list(asked)}",
                              try_=nearest(path, known))  # fmt: skip
    return asked
