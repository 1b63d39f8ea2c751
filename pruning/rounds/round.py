"""Round: the data of one round of training for a pruner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks, masks_in_force
from pruning.masks.prunable import Filter, prunable
from surgery.errors import BadValue, WrongModel

Scores = Mapping[str, Tensor]  # name -> a score per weight; the lowest are cut first
Criterion = Callable[["Round"], Scores]
Pruner = Callable[["Round", float], Masks]


class Staged(Protocol):
    """A pruner with several cuts, between which the network is trained."""

    def stages(self, alive: int, share: float) -> Sequence[Callable[[Round], Masks]]:
        """The cuts, in order, that together remove `share` of the `alive` weights unpruned when the round began."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Round:
    """The weights of a model when the round began and now, and the masks in force.

    All by the names of `prunable(model)`. `now` are the weights themselves, not copies: do not modify them.
    `gradients` are there if the pruner has "gradients" among its `wants`, `movement` (minus the sum over all steps of
    weight times gradient) if it has "movement". A pruner that itself measures in the training wants "training": since
    a folder cannot keep that, a run that was stopped before the cut trains again.
    """

    model: nn.Module
    before: Mapping[str, Tensor]
    now: Mapping[str, Tensor]
    masks: Masks
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    movement: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Round of {type(self.model).__name__}: {self.masks!r}>"

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            for what, tensors in (("before", self.before), ("now", self.now)):
                if name not in tensors or tensors[name].shape != mask.shape:
                    there = str(tuple(tensors[name].shape)) if name in tensors else f"no {name}"
                    raise WrongModel(f"The weights {what} do not match the masks at {name}.", asked=there)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        before: Mapping[str, Tensor],
        masks: Masks | None = None,
        *,
        gradients: Mapping[str, Tensor] | None = None,
        movement: Mapping[str, Tensor] | None = None,
        keep: Filter | None = None,
    ) -> Round:
        """The current round of a model whose weights were `before` when it began (see `snapshot`).

        Without masks, those of a pruning library are used; all other weights are unpruned.

        Raises:
            CannotLook, NothingPicked: as for `prunable`.
            WrongModel: the snapshot or the masks belong to another model.
            BadValue: an unpruned weight is not finite.
        """
        masks = masks_in_force(model, keep) if masks is None else masks
        now = {name: param.detach() for (param, _), name in zip(masks.pairs(model), masks, strict=True)}
        for name, weight in now.items():
            if not bool(weight[masks[name].to(weight.device)].isfinite().all()):
                raise BadValue(
                    f"{name} has values that are not finite.", try_="weights from before the training diverged"
                )
        return cls(model, before, now, masks.beside(now), gradients or {}, movement or {})


def snapshot(model: nn.Module, keep: Filter | None = None) -> dict[str, Tensor]:
    """A copy of the current prunable weights, zero where a pruning library masks them; on their device."""
    masks = masks_in_force(model, keep)
    with torch.no_grad():
        return {name: param.detach() * masks[name] for name, param in prunable(model, keep).items()}


def wants_of(pruner: object) -> frozenset[str]:
    """What a pruner needs besides the weights: "gradients", "movement"; empty for a plain function."""
    wants: Iterable[str] = getattr(pruner, "wants", ())
    return frozenset(wants)
