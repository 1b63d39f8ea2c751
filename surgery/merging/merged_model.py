"""Merged model: a copy in which each linear group is one layer, checked against what it replaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from surgery.edit.write import keep_history, put_modules
from surgery.errors import BadFile, CannotEdit, NothingPicked, UnknownName, WrongModel, nearest
from surgery.history.history import History, Step, histories_of, steps_of
from surgery.history.plan_data import ended, fingerprint, forget_where_changed, register_step
from surgery.isolation.meta_copy import copied
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.merging.check import difference_of, outputs_differ, random_input
from surgery.merging.forward import Forward, forward_of
from surgery.merging.groups import LinearGroup, exact_map, group_of, sections_of
from surgery.merging.layer import Layer, filled
from surgery.merging.maps.linear_map import NotMergeable
from surgery.merging.maps.values import Values
from surgery.merging.replacement import Replacement
from surgery.merging.report import MergedGroup, MergeReport
from surgery.merging.sections import Section, layer_path
from surgery.model import HISTORY, M, check_plain, dtype_of, home_of, parents_of, plain_torch

KIND = "merge"


@plain_torch()
def merge(model: M, groups: Iterable[LinearGroup] | None = None, example: Any = None) -> tuple[M, MergeReport]:
    """Merge what is linear into single layers, on a copy, and report how exact that is and what it saves.

    `groups` are those of `linear_groups` to merge, by default all that can be. Kernels are computed in float64 and cast
    to the dtype of the model. Each layer is checked against the modules that it replaces, and the copy against the
    model, in eval mode: batch norms are part of the layers, so that training would go on without them, and a dropout
    between two layers acts behind them. Modules that are no longer needed become the identity, the layers keep the
    names of the first ones, and the classes of the model and of all unaffected modules stay. `save` and `load` work as
    before; `undo` restores the unmerged modules with their weights as they were, as long as the copy has not been saved
    and loaded.

    Raises:
        NothingPicked: nothing can be merged.
        CannotEdit: one of the given groups cannot be merged; or the model is on the meta device, or a part of it has
            its own history.
        UnknownName: the model does not have one of the given groups.
        NotProved: a layer differs from what it replaces by more than rounding.

    >>> merged, report = surgery.merge(edited)
    """
    check_plain(model)
    if home_of(model).type == "meta":
        raise CannotEdit(f"This {type(model).__name__} has no weights: it is on the meta device.",
                         try_="model.to_empty(device='cpu'), and its weights")  # fmt: skip
    if not steps_of(model) and histories_of(model):
        raise CannotEdit(
            f"Only a part of this {type(model).__name__} was edited, and that part has the history.",
            try_="surgery.merge(that part)",
        )
    sample = Example.of(example, model)
    merged = copied(model)
    forward = forward_of(merged, sample)
    sections = sections_of(merged, forward, Values(merged, shapes_only=True))
    made = [_made(merged, forward, section) for section in _picked(sections, groups, type(model).__name__)]
    _write(merged, {path: new for part in made for path, new in part.modules.items()}, _data(made, sample), sample)
    refused = tuple(group_of(section) for section in sections if section.reason)
    return merged, MergeReport(tuple(part.row for part in made), refused, outputs_differ(model, merged, sample))


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """One merged group: its row in the report, its replacements, and their modules by path."""

    row: MergedGroup
    replacements: tuple[Replacement, ...]
    modules: Mapping[str, nn.Module]


def _picked(sections: Iterable[Section], groups: Iterable[LinearGroup] | None, kind: str) -> list[Section]:
    """The sections to merge, after a check that they can be."""
    known = {(group_of(section).path, section.paths): section for section in sections}
    if groups is None:
        picked = [section for section in known.values() if not section.reason]
        if not picked:
            reasons = list(dict.fromkeys(section.reason for section in known.values()))
            raise NothingPicked(f"Nothing in this {kind} can be merged.", asked="; ".join(reasons[:3]),
                                try_="print(surgery.linear_groups(model))")  # fmt: skip
        return picked
    picked = []
    for group in groups:
        section = known.get((group.path, group.layers))
        if section is None:
            raise UnknownName(
                f"This {kind} has no such group at {group.path}.", asked=", ".join(group.layers),
                there=nearest(group.path, [path for path, _ in known]), try_="surgery.linear_groups(model)",
            )  # fmt: skip
        if section.reason:
            raise CannotEdit(f"The group at {group.path} cannot be merged: {section.reason}.")
        picked.append(section)
    if not picked:
        raise NothingPicked("No group was given.", try_="groups=None for all that can be merged")
    return list(dict.fromkeys(picked))


def _made(model: nn.Module, forward: Forward, section: Section) -> _Made:
    """The modules that a section becomes, checked against those that they replace."""
    path = layer_path(section)
    try:
        layer, exact = Layer.of(exact_map(model, forward, section))
    except NotMergeable as error:
        raise CannotEdit(f"The group at {path} cannot be merged: {error}.") from error
    replacements = _replacements(section, layer)
    layers: list[nn.Module] = []

    def build(layer: Layer, replaced: nn.Module) -> nn.Module:
        made = layer.build(replaced, torch.float64, torch.device("cpu"))
        layers.append(filled(made, exact.weight, exact.bias, replaced.get_parameter("weight").requires_grad))
        return made

    modules = {part.path: part.build(model, build) for part in replacements}
    before = [model.get_submodule(name) for name in modules]
    kept = [model.get_submodule(f"{part.path}.{name}") for part in replacements for name in part.kept]
    weight = next(part for part in replacements if part.layer is not None).replaced(model).get_parameter("weight")
    given = random_input(exact, forward.nodes[section.taken].shape)
    difference = difference_of(path, before, list(modules.values()), given, weight.dtype)
    counts = (_parameters(before) - _parameters(kept), _parameters(modules.values()) - _parameters(kept))
    layers[0].to(weight.device, weight.dtype).to(memory_format=_memory_format(model))
    return _Made(MergedGroup(group_of(section), *counts, difference.exact, difference.cast), replacements, modules)


def _replacements(section: Section, layer: Layer) -> tuple[Replacement, ...]:
    """The layer in its place, and in the places of the other modules what remains of them."""
    path = layer_path(section)
    if section.block is not None:
        kept = (section.kept,) if section.kept else ()
        return (Replacement(path, layer, section.layer, kept, section.function),)
    merged = set(section.paths)
    return tuple(
        Replacement(unit.path, layer if unit.path == path else None,
                    kept=tuple(name for name in unit.remains if f"{unit.path}.{name}" not in merged))
        for unit in section.units if merged.isdisjoint(parents_of(unit.path))
    )  # fmt: skip


def _write(model: nn.Module, modules: Mapping[str, nn.Module], data: dict[str, Any], sample: Example) -> None:
    forget_where_changed(model)
    step = Step(KIND, data, fingerprint(model, find_sites(model, sample)), [], dtype_of(model))
    _remember(model, replace(step, changes=put_modules(model, modules)))


def _remember(model: nn.Module, step: Step) -> None:
    history = model.__dict__.get(HISTORY) or History()
    keep_history(model, replace(history, steps=[*history.steps, ended(step, model)]))


def _data(made: Iterable[_Made], sample: Example) -> dict[str, Any]:
    """The step as plain data."""
    replacements = [part.to_data() for group in made for part in group.replacements]
    return {"package": "surgery", "example": sample.to_data(), "replacements": replacements}


def _replay(model: nn.Module, step: dict[str, Any]) -> None:
    """Put layers of the same shapes where the saved model has them; their weights are in the file, and only there."""
    data, weights = step["data"].get("replacements"), step.get("weights")
    if not isinstance(data, list):
        raise BadFile("The file describes a merge that cannot be made.", asked=repr(data)[:200])
    modules = {}
    for part in map(Replacement.from_data, data):
        shape = weights.shape_of(f"{part.layer_path}.weight") if weights is not None else None
        if part.layer is not None and shape != part.layer.shape:
            raise WrongModel(
                f"The saved weights do not fit the layer merged at {part.layer_path}.",
                asked=str(list(part.layer.shape)), there=str(list(shape or ())),
            )  # fmt: skip

        def build(layer: Layer, replaced: nn.Module) -> nn.Module:
            near = next(replaced.parameters(), next(model.parameters()))
            return layer.build(replaced, near.dtype, near.device)

        modules[part.path] = part.build(model, build)
    put_modules(model, modules)
    _remember(model, Step(KIND, step["data"], step["fingerprint"], [], dtype_of(model)))


def _memory_format(model: nn.Module) -> torch.memory_format:
    """Channels last if a kernel of the model is; of 1x1 kernels alone it cannot be told."""
    kernels = (param for param in model.parameters() if param.dim() == 4 and not param.is_contiguous())
    last = any(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    return torch.channels_last if last else torch.preserve_format


def _parameters(modules: Iterable[nn.Module]) -> int:
    return sum(param.numel() for module in modules for param in module.parameters())


register_step(KIND, _replay)
