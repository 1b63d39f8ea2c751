"""Units: which output units of each weight are dead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.dead.incoming_weights import incoming, static_units, unpruned_weights
from pruning.dead.measure import Measured, measure
from surgery.model import check_plain


def dead_units(
    model: nn.Module, batches: Iterable[Any], masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The dead output units of every weight: name -> boolean (units), True where the unit is dynamically dead.

    For every prunable weight that has an output for each channel of some nonlinearity it feeds, see `dead_neurons`.
    If a weight feeds several calls, a unit is dead only if it is dead at all of them; a call with other channels counts
    as active.

    Raises:
        As `dead_neurons`.
    """
    check_plain(model)
    unpruned = unpruned_weights(model, masks)
    return dead_units_in(measure(model, batches, 0.0, "nonlinearity"), model, unpruned)


def dead_units_in(measured: Measured, model: nn.Module, unpruned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`dead_units`, from the measurements and the unpruned weights."""
    found: dict[str, Tensor] = {}
    active: set[str] = set()
    for site, tally in measured.seen:
        dead = (tally.channels <= 0) & ~static_units(model, site, len(tally.channels), unpruned)
        for name, units in incoming(model, site, unpruned):
            if len(units) == len(dead):
                found[name] = found.get(name, torch.ones_like(dead)) & dead
            else:
                active.add(name)
    return {name: dead & (name not in active) for name, dead in found.items()}
