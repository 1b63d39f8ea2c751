"""Activate: AP as two lines in a training loop that prunes already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.ap.ap import Among, By, Choice, cut_by_ap
from pruning.hosts import commit
from pruning.masks.cut import check_share, count_of
from pruning.masks.masks import Masks, masks_in_force, warn_of_zeros
from pruning.masks.prunable import Filter, prunable
from pruning.processes import agreed, jointly
from pruning.pruners.factories import check_function
from pruning.rounds.round import Round, snapshot
from surgery.errors import BadValue, WrongModel


class ActivateWhilePruning:
    """AP in a pipeline that prunes and trains already: `begin_round()`, your round, `step()`.

    `share`, in [0, 1], is of the weights that live when a round begins; what AP cuts comes on top of what the
    pipeline cuts, so give that the share less AP's. `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in
    `prunable`.

    Living are the weights that the host (`torch.nn.utils.prune`, `torch.ao.pruning`, NNCF) masks live, without one all
    that AP has not cut: a layer that begins at zero learns. What else is pruned say the `masks`, or a function of the
    model that returns them and is asked whenever AP looks. Give `masks=Masks.of`, which takes zeros for pruned, if your
    pipeline sets weights to zero and keeps no masks; without it, weights that are zero in part are warned of.

    Example::

        ap = ActivateWhilePruning(model, share=0.02)
        for _ in range(rounds):
            ap.begin_round()
            train(model)            # yours; its steps inside `with ap.held(optimizer):`
            prune(model)            # yours
            ap.step()

    Raises:
        CannotLook, NothingPicked: as `prunable`: a wrapped model, or one without such weights.
        BadValue: a share outside [0, 1], an unknown word, by="dead" without batches, `masks` that are none.
        WrongModel: the masks are of another model.

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
        seed: int = 0,
        keep: Filter | None = None,
        masks: Masks | Callable[[nn.Module], Masks] | None = None,
    ) -> None:
        check_share("share", share)
        self.model, self.share, self.keep, self.masks = model, share, keep, masks
        self.choice = Choice(among, by, batches, seed)
        prunable(model, keep)
        self._told()
        self._began: tuple[Mapping[str, Tensor], int] | None = None  # weights, and how many of them lived
        self._uncut = Masks({})  # False where AP has cut

    def __repr__(self) -> str:
        begun = ", no round has begun" if self._began is None else ""
        return f"<ActivateWhilePruning of {type(self.model).__name__}: share={self.share}, {self.choice}{begun}>"

    def begin_round(self) -> None:
        """Note the weights as they are, on their device, and how many of them live.

        After structural pruning the round begins anew: in weights that AP had cut and whose shape has changed, zeros
        count as its cuts, unless there is nothing else.

        Raises:
            CannotLook, NothingPicked, BadValue: as `prunable`; a living weight is not finite.
        """
        before = snapshot(self.model, self.keep)
        known = {name: mask for name, mask in self._uncut.items() if name in before}
        uncut = Masks({name: mask if mask.shape == before[name].shape else _not_zero(before[name])
                       for name, mask in known.items()})  # fmt: skip
        masks = jointly(lambda: self._round(before, uncut).masks, "begin a round")
        self._warn(masks)
        self._began, self._uncut = (before, masks.alive), uncut

    def step(self) -> Masks:
        """Cut AP's count, of the weights living when the round began, from what lives now; returns what lives then.

        The weights are pruned in the host's own way, see `pruning.hosts.commit`. Each call cuts so many. Where
        torch.distributed runs, every process must call this and `begin_round`; masks that differ are refused.

        Raises:
            BadValue: no round has begun, a living weight is not finite, too few weights are there to choose from, or
                another process failed, or cuts others.
            WrongModel: weights have another shape or name than when the round began.
        """
        now, count = jointly(self._ending, "cut")
        masks = agreed(lambda: cut_by_ap(now, count, self.choice))
        commit(self.model, masks)
        cut = {name: masks[name] | ~mask for name, mask in now.masks.items()}
        self._uncut = Masks(cut) & self._uncut
        return masks

    def _ending(self) -> tuple[Round, int]:
        """The round that ends now, and how many weights AP cuts in it."""
        if self._began is None:
            raise BadValue("No round has begun.", asked="step()", try_="begin_round() before the training of a round")
        before, alive = self._began
        self._check_same(before, whole=True)
        return self._round(before, self._uncut), count_of(self.share, alive)

    def after_host_update(self) -> Masks:
        """Lay AP's cuts over the weights again, after a host that makes its masks anew; returns what lives then.

        Raises:
            WrongModel: weights have another shape or name than when AP cut.
        """
        self._check_same(self._uncut)
        masks = self._living() & self._uncut
        if self._uncut:
            commit(self.model, masks)
        return masks

    def held(
        self, optimizer: Optimizer | Iterable[Optimizer], also: Iterable[nn.Module] = ()
    ) -> AbstractContextManager[None]:
        """Inside, weights that are pruned now, by the pipeline or by AP, are exactly zero after every step.

        As `Masks.held`: also what the optimiser keeps about them is cleared, and EMA copies given as `also`.

        Raises:
            WrongModel: weights have another shape or name than when AP cut.
            BadValue: no optimiser moves any of these weights.
        """
        self._check_same(self._uncut)
        masks = self._living() & self._uncut
        self._warn(masks)
        return masks.held(self.model, optimizer, also)

    def _round(self, before: Mapping[str, Tensor], uncut: Masks) -> Round:
        return Round.of(self.model, before, self._living() & uncut, keep=self.keep)

    def _living(self) -> Masks:
        """What lives by the host and by what was told, whatever AP has cut."""
        masks, told = masks_in_force(self.model, self.keep), self._told()
        return masks & {name: mask for name, mask in told.items() if name in masks}

    def _warn(self, masks: Masks) -> None:
        if self.masks is None:
            warn_of_zeros(self.model, masks, stacklevel=3)

    def _told(self) -> Masks:
        if callable(self.masks):
            check_function("`masks` is a function of the model.", "masks", self.masks, takes=1)
        told = self.masks(self.model) if callable(self.masks) else self.masks
        if not isinstance(told, Masks | None):
            raise BadValue("`masks` are no Masks.", there=type(told).__name__,
                           try_="Masks, or a function of the model that returns them: Masks.of")  # fmt: skip
        if told is None:
            return Masks({})
        told.pairs(self.model)
        return told

    def _check_same(self, before: Mapping[str, Tensor], whole: bool = False) -> None:
        """Refuse weights that structural pruning or surgery has replaced since; of the `whole` model, new ones too."""
        now = {name: tuple(one.shape) for name, one in prunable(self.model, self.keep).items()}
        then = {name: tuple(one.shape) for name, one in before.items()}
        for name in [*then, *now] if whole else then:
            if now.get(name) != then.get(name):
                raise WrongModel(
                    f"{name} is not what it was.", asked=str(then.get(name, "no such weight, when AP looked last")),
                    there=str(now.get(name, "no such weight")), try_="begin_round() again, after structural changes",
                )  # fmt: skip


def _not_zero(weight: Tensor) -> Tensor:
    """What is not zero in a weight that was cut; one of zeros alone is new."""
    return weight != 0 if bool(weight.any()) else torch.ones_like(weight, dtype=torch.bool)
