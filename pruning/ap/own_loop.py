"""AP in a training loop of your own that already prunes: two lines around each round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.ap.choice import Among, By, Choice, cut_by_ap
from pruning.dead.meter import DeadNeuronMeter
from pruning.hosts import commit
from pruning.masks.cut import check_share, count_of
from pruning.masks.masks import Masks, masks_in_force, warn_of_zeros
from pruning.masks.prunable import Filter, prunable
from pruning.processes import agreed, jointly
from pruning.pruners.factories import check_function
from pruning.rounds.round import Round, snapshot
from surgery.errors import BadValue, WrongModel


class ActivateWhilePruning:
    """AP in a pipeline that already prunes and trains: `begin_round()`, your round, `step()`.

    `share`, in [0, 1], is a fraction of the weights that are unpruned when a round begins; AP's cut comes on top of
    the pipeline's, so reduce that by AP's share. `among`, `by`, `batches`, `meter` and `seed` as in `with_ap`, `keep`
    as in `prunable`.

    Unpruned are the weights that the masks of the pruning library (`torch.nn.utils.prune`, `torch.ao.pruning`, NNCF)
    keep, without one all that AP has not cut, even zeros: a layer initialised with zeros learns. Pass further `masks`,
    or a function of the model that returns them and is called whenever AP needs them. Pass `masks=Masks.of`, which
    treats zeros as pruned, if your pipeline sets weights to zero without masks; otherwise partly zero weights give a
    warning.

    Example::

        ap = ActivateWhilePruning(model, share=0.02)
        for _ in range(rounds):
            ap.begin_round()
            train(model)            # yours; its steps inside `with ap.held(optimizer):`
            prune(model)            # yours
            ap.step()

    Raises:
        CannotLook, NothingPicked: as for `prunable`: a wrapped model, or one without such weights.
        BadValue: a share outside [0, 1], an unknown word, by="dead" without batches or meter, `masks` of another type.
        WrongModel: the masks belong to another model.

    Source: Activate-while-Pruning, "lite" order.
    """

    def __init__(
        self,
        model: nn.Module,
        share: float,
        among: Among = "negative",
        by: By = "still",
        *,
        batches: Iterable[Any] | None = None,
        meter: DeadNeuronMeter | None = None,
        seed: int = 0,
        keep: Filter | None = None,
        masks: Masks | Callable[[nn.Module], Masks] | None = None,
    ) -> None:
        check_share("share", share)
        self.model, self.share, self.keep, self.masks = model, share, keep, masks
        self.choice = Choice(among, by, batches, seed, meter)
        prunable(model, keep)
        self._masks_given()
        self._began: tuple[Mapping[str, Tensor], int] | None = None  # weights, and how many of them were unpruned
        self._uncut = Masks({})  # False where AP has cut

    def __repr__(self) -> str:
        begun = ", no round has begun" if self._began is None else ""
        return f"<ActivateWhilePruning of {type(self.model).__name__}: share={self.share}, {self.choice}{begun}>"

    def begin_round(self) -> None:
        """Record the current weights, on their device, and how many of them are unpruned.

        Call it again after structural pruning: in weights that AP had cut and whose shape has changed, zeros count as
        its cuts, unless all are zero.

        Raises:
            CannotLook, NothingPicked, BadValue: as for `prunable`; an unpruned weight is not finite.
        """
        before = snapshot(self.model, self.keep)
        known = {name: mask for name, mask in self._uncut.items() if name in before}
        uncut = Masks({name: mask if mask.shape == before[name].shape else _not_zero(before[name])
                       for name, mask in known.items()})  # fmt: skip
        masks = jointly(lambda: self._round(before, uncut).masks, "begin a round")
        self._warn(masks)
        self._began, self._uncut = (before, masks.alive), uncut

    def step(self) -> Masks:
        """Cut AP's fraction of the weights unpruned when the round began from those unpruned now; return the masks.

        The weights are pruned in the library's own way, see `pruning.hosts.commit`. Every call cuts again. With
        torch.distributed, every process must call this and `begin_round`; masks that differ raise an error.

        Raises:
            BadValue: no round has begun, an unpruned weight is not finite, there are too few weights to choose from,
                or another process failed or cut other weights.
            WrongModel: weights have another shape or name than when the round began.
        """
        now, count = jointly(self._ending, "cut")
        masks = agreed(lambda: cut_by_ap(now, count, self.choice))
        commit(self.model, masks)
        cut = {name: masks[name] | ~mask for name, mask in now.masks.items()}
        self._uncut = Masks(cut) & self._uncut
        return masks

    def _ending(self) -> tuple[Round, int]:
        """The current round, and how many weights AP cuts at its end."""
        if self._began is None:
            raise BadValue("No round has begun.", asked="step()", try_="begin_round() before the training of a round")
        before, alive = self._began
        self._check_same(before, whole=True)
        return self._round(before, self._uncut), count_of(self.share, alive)

    def after_host_update(self) -> Masks:
        """Apply AP's cuts again, after a pruning library recomputed its masks; return the masks in force.

        Raises:
            WrongModel: weights have another shape or name than when AP cut.
        """
        self._check_same(self._uncut)
        masks = self._masks_without_ap() & self._uncut
        if self._uncut:
            commit(self.model, masks)
        return masks

    def held(
        self, optimizer: Optimizer | Iterable[Optimizer], also: Iterable[nn.Module] = ()
    ) -> AbstractContextManager[None]:
        """Inside, weights pruned so far, by the pipeline or by AP, are exactly zero after every step.

        As `Masks.held`: optimiser state of pruned weights is cleared, too, and EMA copies given as `also`.

        Raises:
            WrongModel: weights have another shape or name than when AP cut.
            BadValue: the optimiser does not have any of these weights.
        """
        self._check_same(self._uncut)
        masks = self._masks_without_ap() & self._uncut
        self._warn(masks)
        return masks.held(self.model, optimizer, also)

    def _round(self, before: Mapping[str, Tensor], uncut: Masks) -> Round:
        return Round.of(self.model, before, self._masks_without_ap() & uncut, keep=self.keep)

    def _masks_without_ap(self) -> Masks:
        """The masks of the pruning library and of the user, without AP's cuts."""
        masks, given = masks_in_force(self.model, self.keep), self._masks_given()
        return masks & {name: mask for name, mask in given.items() if name in masks}

    def _warn(self, masks: Masks) -> None:
        if self.masks is None:
            warn_of_zeros(self.model, masks, stacklevel=3)

    def _masks_given(self) -> Masks:
        if callable(self.masks):
            check_function("`masks` must be a function of the model.", "masks", self.masks, takes=1)
        given = self.masks(self.model) if callable(self.masks) else self.masks
        if not isinstance(given, Masks | None):
            raise BadValue("`masks` must be Masks.", asked=type(given).__name__,
                           try_="Masks, or a function of the model that returns them: Masks.of")  # fmt: skip
        if given is None:
            return Masks({})
        given.pairs(self.model)
        return given

    def _check_same(self, before: Mapping[str, Tensor], whole: bool = False) -> None:
        """Check that no weight was replaced since by structural pruning or surgery; with `whole`, that none is new."""
        now = {name: tuple(weight.shape) for name, weight in prunable(self.model, self.keep).items()}
        then = {name: tuple(weight.shape) for name, weight in before.items()}
        for name in [*then, *now] if whole else then:
            if now.get(name) != then.get(name):
                raise WrongModel(
                    f"{name} was replaced since the round began.", asked=str(now.get(name, "no such weight")),
                    there=str(then.get(name, "no such weight")), try_="begin_round() again, after structural changes",
                )  # fmt: skip


def _not_zero(weight: Tensor) -> Tensor:
    """The nonzero entries of a weight that was cut; all entries if it is entirely zero, and so new."""
    return weight != 0 if bool(weight.any()) else torch.ones_like(weight, dtype=torch.bool)
