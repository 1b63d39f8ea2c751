"""Revive and recut: dead units begin anew, spared by the cut of this round, and compete in the next one.

An arm of a study, not a pruner: a pruner only cuts, and the masks of `pruning.run_rounds` never grow back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import pruning
from pruning.masks.cut import count_of, cut_lowest

_PRODUCE = (torch_pruning.prune_conv_out_channels, torch_pruning.prune_linear_out_channels)
_CONSUME = (torch_pruning.prune_conv_in_channels, torch_pruning.prune_linear_in_channels)


def revive_and_cut(
    model: nn.Module, masks: pruning.Masks, share: float, batches: Sequence[Tensor], seed: int
) -> pruning.Masks:
    """Revive dead units, in place, and cut the smallest of the other weights, to the density of a cut without it."""
    dead = pruning.dead_units(model, batches, masks)
    fresh = revive(model, dead, batches[0][:2], seed)
    grown = pruning.Masks({name: mask | fresh[name] for name, mask in masks.items()})
    left = masks.alive - count_of(share, masks.alive)
    sizes = {name: weight.detach().abs() for name, weight in pruning.prunable(model).items()}
    return cut_lowest(grown, sizes, grown.alive - left, {name: ~chosen for name, chosen in fresh.items()})


def revive(model: nn.Module, dead: Mapping[str, Tensor], example: Tensor, seed: int) -> dict[str, Tensor]:
    """Give dead units new weights, in place; returns which weights begin anew, pruned or not.

    `dead` as from `pruning.dead_units`. A unit gets random incoming weights (He et al.), a norm of scale 1 and shift 0,
    and outgoing weights of zero, so that the network computes what it did. Units of a residual stream, whose other
    writers are not dead, stay as they are.

    Source: the recycling of Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning".
    """
    names = {id(module): f"{path}.weight" for path, module in model.named_modules()}
    weights = pruning.prunable(model)
    chosen = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    for name, unit in [(name, unit) for name, units in dead.items() for unit in units.nonzero().flatten().tolist()]:
        group = list(_members(graph, model.get_submodule(name.rpartition(".")[0]), unit))
        writers = [(names[id(module)], channels) for module, function, channels in group if function in _PRODUCE]
        if not all(writer in dead and bool(dead[writer][channels].all()) for writer, channels in writers):
            continue
        with torch.no_grad():
            for module, function, channels in group:
                own = names[id(module)]
                if isinstance(module, _BatchNorm):
                    _reset(module, channels)
                elif function in _PRODUCE:
                    drawn = nn.init.kaiming_normal_(torch.empty(chosen[own].shape), generator=generator)
                    weights[own][channels] = drawn[channels].to(weights[own])
                    chosen[own][channels] = True
                elif function in _CONSUME:
                    weights[own][:, channels] = 0
                    chosen[own][:, channels] = True
    return chosen


def _members(graph: Any, layer: nn.Module, unit: int) -> Iterator[tuple[nn.Module, Any, list[int]]]:
    """The layers that write, normalise and read a unit: layer, Torch-Pruning's function for it, channels."""
    function = graph.get_pruner_of_module(layer).prune_out_channels
    for dependency, channels in graph.get_pruning_group(layer, function, idxs=[unit]):
        if isinstance(dependency.layer, _BatchNorm | _ConvNd | nn.Linear):
            yield dependency.layer, dependency.pruning_fn, list(channels)


def _reset(norm: _BatchNorm, channels: list[int]) -> None:
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        own = getattr(norm, name)
        if own is not None:
            own[channels] = value
