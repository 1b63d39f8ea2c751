"""Base pruner: the pruner that AP is combined with; it is checked beforehand, and must cut an exact count."""

from __future__ import annotations

import math

from pruning.masks.masks import Masks
from pruning.pruners.factories import check_pruner, name_of
from pruning.rounds.round import Pruner, Round
from surgery.errors import BadValue


def check_base_pruner(pruner: Pruner) -> None:
    """Check that AP can be combined with a pruner.

    Raises:
        BadValue: it makes several cuts, or is not a pruner, see `check_pruner`.
    """
    if hasattr(pruner, "stages") and not isinstance(pruner, type):
        raise BadValue("AP needs a base pruner with a single cut.", asked=repr(pruner), try_="the pruner inside it")
    check_pruner(pruner)


def host_cut(pruner: Pruner, count: int, round: Round) -> Masks:
    """The masks after the base pruner cuts `count` weights; it is called with the fraction that gives this count.

    Raises:
        BadValue: it cuts a different count.
    """
    alive = round.masks.alive
    if not alive:
        return round.masks
    share = count / alive
    if share * alive < count:  # so that rounding down also gives the count
        share = math.nextafter(share, 2.0)
    masks = pruner(round, min(share, 1.0))
    if not isinstance(masks, Masks):
        raise BadValue(f"{name_of(pruner)} does not return masks.", asked=type(masks).__name__, there="Masks")
    if alive - masks.alive != count:
        raise BadValue(
            f"The base pruner {name_of(pruner)} cuts a different number of weights than requested.",
            asked=f"{alive - masks.alive} cut", there=f"{count} of {alive} unpruned weights requested",
            try_="a pruner that cuts exactly the given share of the unpruned weights",
        )  # fmt: skip
    return masks
