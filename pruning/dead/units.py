"""Units: which output units of each weight are dead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.dead.incoming_weights import incoming, living_weights, static_units
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
    living = living_weights(model, masks)
    return dead_units_in(measure(model, batches, 0.0, "nonlinearity"), model, living)


def dead_units_in(measured: Measured, model: nn.Module, living: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`dead_units`, from the measurements and the unpruned weights."""
    found: dict[str, Tensor] = {}
    spoken: set[str] = set()
    for site, tally in measured.seen:
        dead = (tally.channels <= 0) & ~static_units(model, site, len(tally.channels), living)
        for name, units in incoming(model, site, living):
            if len(units) == len(dead):
                found[name] = found.get(name, torch.ones_like(dead)) & dead
            else:
                spoken.add(name)
    return {name: dead & (name not in spoken) for name, dead in found.items()}
