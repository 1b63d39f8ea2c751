"""Cut: prune exactly a given number of the lowest scores, ties broken by position."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pruning.masks.masks import Masks
from surgery.errors import BadValue

_ROUNDING = 1e-6  # share x alive may fall slightly below the intended integer


def count_of(share: float, alive: int) -> int:
    """The number of weights in a fraction of the unpruned ones: share x alive, rounded down."""
    return math.floor(share * alive + _ROUNDING)


def check_share(name: str, share: float) -> None:
    """Check a fraction.

    Raises:
        BadValue: it is not a number in [0, 1].
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise BadValue(
            f"`{name}` must be a fraction of the unpruned weights.", asked=f"{name}={share!r}", try_="0 to 1"
        )


def candidates_of(masks: Masks, among: Mapping[str, Tensor] | None) -> Masks:
    """The unpruned weights that may be cut: all of them, or those in `among`."""
    return masks if among is None else Masks({name: mask & among[name] for name, mask in masks.items()})


def cut_lowest(
    masks: Masks, scores: Mapping[str, Tensor], count: int, among: Mapping[str, Tensor] | None = None
) -> Masks:
    """The masks without the `count` unpruned weights of the lowest scores, over all tensors together.

    Exactly that many: ties are broken by the order of names, then by the position in the tensor. `among` are boolean
    tensors that say which weights may be cut, by default all.

    Raises:
        BadValue: fewer unpruned weights may be cut, or the score of one of them is NaN.
    """
    candidates = candidates_of(masks, among)
    there = candidates.alive
    if count > there:
        raise BadValue("There are too few weights to cut.", asked=f"{count} weights", there=f"{there} that may be cut",
                       try_="a smaller share")  # fmt: skip
    if count == 0:
        return masks
    device = next(iter(masks.values())).device
    eligible = [_checked(name, scores[name][mask]).to(device) for name, mask in candidates.items()]
    cut = _lowest(torch.cat(eligible), count).split([len(row) for row in eligible])
    kept = {}
    for (name, mask), lost in zip(candidates.items(), cut, strict=True):
        kept[name] = masks[name].clone()
        kept[name][mask] = ~lost.to(mask.device)
    return Masks(kept)


def _checked(name: str, scores: Tensor) -> Tensor:
    if bool(scores.isnan().any()):
        raise BadValue(f"Unpruned weights of {name} have NaN scores.")
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _lowest(scores: Tensor, count: int) -> Tensor:
    """True for the `count` lowest of a row of numbers; the first of equal ones."""
    bound = scores.kthvalue(count).values
    below, equal = scores < bound, scores == bound
    missing = count - int(below.sum())
    return below | (equal & (equal.cumsum(0) <= missing))
