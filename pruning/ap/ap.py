"""AP: Activate-while-Pruning around any base pruner, in the same cut or as a separate stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from pruning.ap.base_pruner import check_base_pruner, host_cut
from pruning.ap.choice import Among, By, Choice, check_word, cut_by_ap, order_within
from pruning.dead.meter import DeadNeuronMeter
from pruning.masks.cut import candidates_of, check_share, count_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.pruners.factories import name_of
from pruning.pruners.pruners import Constraint
from pruning.rounds.round import Pruner, Round, wants_of
from surgery.errors import BadValue

Shortfall = Literal["error", "host"]


def with_ap(
    pruner: Pruner,
    ap_share: float,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    meter: DeadNeuronMeter | None = None,
    seed: int = 0,
    shortfall: Shortfall = "error",
) -> WithAP:
    """A pruner that leaves the fraction `ap_share` to AP: the base pruner cuts, then AP cuts exactly the rest.

    Both fractions are in [0, 1] and refer to the unpruned weights when the pruner is called; the total is that of the
    base pruner alone. AP chooses from the weights left by the base pruner, among those that are "negative",
    "positive" or "any" now, first

    - by="still": those that moved least since the round began (as published, among negative ones); tensors in which
      nothing has moved (frozen layers) are left out;
    - by="dead": of the weights of units that are silent on all of `batches`, those that suppress them most: weight x
      mean input of its channel x sign of the scale of a norm behind the unit, if that is below zero; measured on the
      current model. With a `meter`, a `DeadNeuronMeter(model, inputs=True)` around the steps of the training, units
      that were silent in training since its last reset: reset it at the start of the epoch that counts. The `folder`
      of `run_rounds` does not keep its measurements: a run that was stopped before a cut makes the training before it
      again;
    - by="magnitude": the smallest; by="random": any, the same for the same `seed` and number of unpruned weights.

    A pattern of the base pruner (`within`, such as 2:4) also holds for AP. If AP finds too few weights,
    shortfall="error" raises, "host" lets the base pruner cut the rest.

    Raises:
        BadValue: here, a fraction outside [0, 1], an unknown word, by="dead" without batches or meter (or with both, or
            with batches that can be read only once), a meter for another choice, a staged pruner, or one that does not
            take (round, share); when called, `ap_share` above the share, a base pruner that cuts a different count, no
            movement (by="still"), a meter that has observed nothing, or a shortfall.
        WrongModel: when called, the meter measures another model.

    Source: Activate-while-Pruning, "lite" order, as in its released script; counts are exact here, and only trainable
    weights of layers are considered.
    """
    return WithAP(pruner, ap_share, Choice(among, by, batches, seed, meter), shortfall)


def in_stages(
    pruner: Pruner,
    ap_share: float,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    meter: DeadNeuronMeter | None = None,
    seed: int = 0,
    shortfall: Shortfall = "error",
) -> InStages:
    """The same two cuts with training between them: the base pruner cuts, the network trains, AP cuts.

    For `run_rounds`. Arguments and `Raises:` as in `with_ap`. Both fractions refer to the unpruned weights when the
    round began.

    Source: Activate-while-Pruning, "pro" order.
    """
    return InStages(pruner, ap_share, Choice(among, by, batches, seed, meter), shortfall)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _PrunerWithAP:
    """A base pruner that leaves the fraction `ap_share` to AP, in the same cut or in one of its own."""

    factory: ClassVar[str]
    pruner: Pruner
    ap_share: float
    choice: Choice
    shortfall: Shortfall

    def __post_init__(self) -> None:
        check_base_pruner(self.pruner)
        check_share("ap_share", self.ap_share)
        check_word("shortfall", self.shortfall, get_args(Shortfall))

    @property
    def wants(self) -> frozenset[str]:
        """What the base pruner needs in a round, and the training, if AP measures there."""
        return wants_of(self.pruner) | (set() if self.choice.meter is None else {"training"})

    def __repr__(self) -> str:
        shortfall = "" if self.shortfall == "error" else f", shortfall={self.shortfall!r}"
        return f"{self.factory}({name_of(self.pruner)}, ap_share={self.ap_share}, {self.choice}{shortfall})"

    def _cut_of_ap(self, count: int, round: Round) -> Masks:
        """AP's cut and, if it finds too few weights and `shortfall` allows, the base pruner's cut of the rest."""
        within = _pattern_of(self.pruner)
        if self.shortfall == "error" or count == 0:
            return cut_by_ap(round, count, self.choice, within)
        scores, among = order_within(round, self.choice, within)
        found = min(count, candidates_of(round.masks, among).alive)
        masks = cut_lowest(round.masks, scores, found, among)
        return masks if found == count else host_cut(self.pruner, count - found, replace(round, masks=masks))


class WithAP(_PrunerWithAP):
    """A base pruner that leaves part of its cut to AP; built by `with_ap`."""

    __slots__ = ()
    factory = "with_ap"

    def check(self, share: float) -> None:
        """Check, before anything is trained, that a share is at least AP's.

        Raises:
            BadValue: `share` is not in [0, 1], or less than AP's.
        """
        shared_counts(0, share, self.ap_share)

    def __call__(self, round: Round, share: float) -> Masks:
        """Cut a fraction of the unpruned weights, the base pruner first."""
        host, ap = shared_counts(round.masks.alive, share, self.ap_share)
        masks = host_cut(self.pruner, host, round)
        return self._cut_of_ap(ap, replace(round, masks=masks.beside(round.now)))


class InStages(_PrunerWithAP):
    """A pruner of two cuts, the base pruner's and AP's, with training between them; built by `in_stages`."""

    __slots__ = ()
    factory = "in_stages"

    def stages(self, alive: int, share: float) -> tuple[Callable[[Round], Masks], ...]:
        """The base pruner's cut and AP's, which together remove `share` of the `alive` weights unpruned at its start.

        Raises:
            BadValue: `share` is not in [0, 1], or less than AP's.
        """
        host, ap = shared_counts(alive, share, self.ap_share)
        return partial(host_cut, self.pruner, host), partial(self._cut_of_ap, ap)

    def __call__(self, round: Round, share: float) -> Masks:
        """Raise: one call cannot train between two cuts."""
        raise BadValue(
            "A pruner cannot train, and a staged one needs training between its cuts.", asked=repr(self),
            try_="run_rounds(model, train, pruner, share, rounds), which trains between them; or with_ap, a single cut",
        )  # fmt: skip


def shared_counts(alive: int, share: float, ap_share: float) -> tuple[int, int]:
    """How many of the unpruned weights the base pruner cuts and how many AP: together as many as the former alone.

    Raises:
        BadValue: `share` is not in [0, 1], or less than AP's.
    """
    check_share("share", share)
    if ap_share > share:
        raise BadValue(
            "`ap_share` must not exceed `share`.", asked=f"ap_share={ap_share}, share={share}",
            try_="ap_share up to share",
        )  # fmt: skip
    ap = count_of(ap_share, alive)
    return count_of(share, alive) - ap, ap


def _pattern_of(pruner: Pruner) -> Constraint | None:
    """The pattern of the innermost base pruner."""
    while isinstance(pruner, WithAP):
        pruner = pruner.pruner
    return getattr(pruner, "within", None)
