"""Suppression: how strongly each weight holds down a dead unit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.dead.incoming_weights import by_input, by_output, signs_behind_norms, unpruned_weights
from pruning.dead.measure import Measured
from pruning.dead.units import dead_units_in
from pruning.masks.masks import Masks


def suppression(model: nn.Module, weights: Mapping[str, Tensor], masks: Masks, measured: Measured) -> dict[str, Tensor]:
    """The mean contribution of each weight to its unit if that is dead, else 0: name -> a tensor like the weight.

    Weights below zero hold their units down. Weights are left out if the inputs of their layers were not measured: if
    these were never called, or are neither convolutions nor linear.

    Source: close to Synaptic Stripping (2302.05818), which removes the connections that suppress dead units.
    """
    unpruned = unpruned_weights(model, masks)
    units = dead_units_in(measured, model, unpruned)
    signs = signs_behind_norms(model, [site for site, _ in measured.seen])
    return {
        name: contributions(model, name, weights[name], units[name], inputs, signs.get(name))
        for name, inputs in measured.inputs.items() if name in units and name in weights
    }  # fmt: skip


def contributions(
    model: nn.Module, name: str, weight: Tensor, dead: Tensor, inputs: Tensor, signs: Tensor | None = None
) -> Tensor:
    """Weight x mean input x sign of the norm behind its unit, in single precision at least; 0 at units not dead."""
    values = weight.to(torch.promote_types(weight.dtype, torch.float32)) * by_input(model, name, inputs)
    values = values if signs is None else values * by_output(model, name, signs)
    return values.masked_fill(~by_output(model, name, dead), 0)
