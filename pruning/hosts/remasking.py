"""Remasking: AP's cuts for pruning libraries that recompute their masks at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.ap.choice import Among, By, Choice, cut_by_ap
from pruning.masks.masks import Masks, masks_in_force
from pruning.masks.prunable import Filter, convolutions_and_linear
from pruning.rounds.round import Round
from surgery.errors import BadValue


@dataclass(frozen=True, slots=True)
class RemaskingHost:
    """A pruning library that recomputes its masks; `masks_of` finds those of a model (not copies), by weight."""

    masks_of: Callable[[nn.Module], Mapping[str, Tensor]]

    def cut(
        self,
        model: nn.Module,
        before: Mapping[str, Tensor],
        count: int,
        among: Among = "negative",
        by: By = "still",
        *,
        batches: Iterable[Any] | None = None,
        seed: int = 0,
        keep: Filter | None = None,
    ) -> Masks:
        """Let AP cut exactly `count` more of the weights that the library masks; return AP's masks.

        These are False only for the weights that AP cut. The library recomputes its masks: commit AP's again after each
        of its steps, and combine them over the rounds with `&`. `before` is `pruning.snapshot(model)` from when the
        round began; `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

        Raises:
            CannotLook: the model is wrapped or scripted.
            NothingPicked: the library masks none of these weights.
            WrongModel: the snapshot belongs to another model.
            BadValue: an unknown word; `count` is negative, or more than AP may cut; an unpruned weight is not finite,
                or has another parametrisation besides the library's. Nothing has changed.
        """
        held, wanted = self.masks_of(model), keep or convolutions_and_linear
        choice = Choice(among, by, batches, seed)
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
