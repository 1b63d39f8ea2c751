"""Own: what AP alone cuts beside a host that computes its masks anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.ap.ap import Choice, cut_by_ap
from pruning.masks.masks import Masks, masks_in_force
from pruning.masks.prunable import Filter, convolutions_and_linear
from pruning.rounds.round import Round
from surgery.errors import BadValue


def own_cut(
    model: nn.Module,
    before: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    count: int,
    choice: Choice,
    keep: Filter | None,
) -> Masks:
    """Cut `count` weights more in the masks `held` by a host, in place; returns masks that are False only there.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: the host holds none of the prunable weights.
        WrongModel: the snapshot is of another model.
        BadValue: `count` is no count, or more than AP may cut; a living weight is not finite. Nothing has changed.
    """
    wanted = keep or convolutions_and_linear
    alive = masks_in_force(model, lambda name, module: name in held and wanted(name, module))
    alive = alive & {name: held[name] != 0 for name in alive}
    now = Round.of(model, before, alive)
    after = cut_by_ap(now, checked_count(count), choice)
    mine = Masks({name: after[name] | ~mask for name, mask in now.masks.items()})
    for name, mask in mine.items():
        and_in(held[name], mask)
    return mine


def checked_count(count: int) -> int:
    """The count, if it is one.

    Raises:
        BadValue: it is no whole number from 0 up.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise BadValue("AP cuts a number of weights.", asked=f"count={count!r}", try_="0, 1, 2, ...")
    return count


@torch.no_grad()
def and_in(held: Tensor, mask: Tensor) -> None:
    """Make zero, in place, what the mask prunes: of a host's mask of any dtype, or of a weight."""
    held.masked_fill_(~mask.to(held.device), 0)
