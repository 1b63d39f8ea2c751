"""Beside: the host of AP, a pruner of one cut, looked at before it is taken and asked for an exact count."""

from __future__ import annotations

import math

from pruning.masks.masks import Masks
from pruning.pruners.factories import check_pruner, name_of
from pruning.rounds.round import Pruner, Round
from surgery.errors import BadValue


def checked_host(pruner: Pruner) -> Pruner:
    """The pruner, if AP can go beside it.

    Raises:
        BadValue: it makes several cuts, or is no pruner, see `check_pruner`.
    """
    if hasattr(pruner, "stages") and not isinstance(pruner, type):
        raise BadValue("AP goes beside a pruner of one cut.", asked=repr(pruner), try_="the pruner inside it")
    check_pruner(pruner)
    return pruner


def host_cut(pruner: Pruner, count: int, round: Round) -> Masks:
    """What the host leaves when it cuts so many; it is told a share, which gives the count again.

    Raises:
        BadValue: it cuts another count.
    """
    alive = round.masks.alive
    if not alive:
        return round.masks
    share = count / alive
    if share * alive < count:  # whoever rounds down gets the count, too
        share = math.nextafter(share, 2.0)
    masks = pruner(round, min(share, 1.0))
    if not isinstance(masks, Masks):
        raise BadValue("A pruner returns masks.", asked=name_of(pruner), there=type(masks).__name__)
    if alive - masks.alive != count:
        raise BadValue(
            f"The host does not cut what it was asked for: {name_of(pruner)}.",
            asked=f"{count} of {alive} living weights", there=f"{alive - masks.alive} cut",
            try_="a pruner that cuts the share it is told, of the living weights",
        )  # fmt: skip
    return masks
