"""Remasking: AP's cuts for pruning libraries that recompute their masks."""

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
    """Cut `count` more weights in the masks `held` by a pruning library, in place; return masks that are False there.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: the library masks none of the prunable weights.
        WrongModel: the snapshot belongs to another model.
        BadValue: `count` is negative, or more than AP may cut; an unpruned weight is not finite. Nothing has changed.
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
    """The count, checked.

    Raises:
        BadValue: it is not an integer, or negative.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise BadValue("`count` must be a number of weights.", asked=f"count={count!r}", try_="0 or more")
    return count


@torch.no_grad()
def and_in(held: Tensor, mask: Tensor) -> None:
    """Zero, in place, what the mask prunes: in a library's mask of any dtype, or in a weight."""
    held.masked_fill_(~mask.to(held.device), 0)
