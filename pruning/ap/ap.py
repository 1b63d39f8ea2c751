"""AP: Activate-while-Pruning around any base pruner, in the same cut or as a separate stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pruning.ap.base_pruner import checked_host, host_cut
from pruning.dead.incoming_weights import by_input, by_output, signs_behind_norms
from pruning.dead.rates import dead_units, mean_inputs
from pruning.masks.cut import candidates_of, check_share, count_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.pruners.criteria import Random, magnitude
from pruning.pruners.factories import name_of
from pruning.pruners.pruners import Constraint
from pruning.rounds.round import Pruner, Round, Scores, wants_of
from surgery.errors import BadValue
from surgery.look.finder import find_sites
from surgery.model import in_eval
from surgery.repair.batches import batches_of, check_repeatable

Among = Literal["negative", "positive", "any"]
By = Literal["still", "dead", "magnitude", "random"]
Shortfall = Literal["error", "host"]


def with_ap(
    pruner: Pruner,
    ap_share: float,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
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
      current model;
    - by="magnitude": the smallest; by="random": any, the same for the same `seed` and number of unpruned weights.

    A pattern of the base pruner (`within`, such as 2:4) also holds for AP. If AP finds too few weights,
    shortfall="error" raises, "host" lets the base pruner cut the rest.

    Raises:
        BadValue: here, a fraction outside [0, 1], an unknown word, by="dead" without batches (or with batches that can
            be read only once), a staged pruner, or one that does not take (round, share); when called, `ap_share`
            above the share, a base pruner that cuts a different count, no movement (by="still"), or a shortfall.

    Source: Activate-while-Pruning, "lite" order, as in its released script; counts are exact here, and only trainable
    weights of layers are considered.
    """
    return WithAP(checked_host(pruner), _ap_share(ap_share), Choice(among, by, batches, seed), _shortfall(shortfall))


def in_stages(
    pruner: Pruner,
    ap_share: float,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    shortfall: Shortfall = "error",
) -> InStages:
    """The same two cuts with training between them: the base pruner cuts, the network trains, AP cuts.

    For `run_rounds`. Arguments and `Raises:` as in `with_ap`. Both fractions refer to the unpruned weights when the
    round began.

    Source: Activate-while-Pruning, "pro" order.
    """
    return InStages(checked_host(pruner), _ap_share(ap_share), Choice(among, by, batches, seed), _shortfall(shortfall))


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which unpruned weights AP cuts first; see `with_ap`."""

    among: Among = "negative"
    by: By = "still"
    batches: Iterable[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_word("among", self.among, get_args(Among))
        _check_word("by", self.by, get_args(By))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadValue("`seed` must be an integer.", asked=f"seed={self.seed!r}")
        if self.batches is not None:
            check_repeatable(self.batches)
        elif self.by == "dead":
            raise BadValue(
                'by="dead" needs batches to measure which units are silent.', asked="no batches", try_="batches=loader"
            )

    @property
    def words(self) -> str:
        """The weights it picks, for messages."""
        sign = "" if self.among == "any" else f"{self.among} "
        return f"unpruned {sign}weights" + (" that suppress dead units" if self.by == "dead" else "")

    def __str__(self) -> str:
        seed = f", seed={self.seed}" if self.by == "random" else ""
        return f"among={self.among!r}, by={self.by!r}{seed}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WithAP:
    """A base pruner that leaves part of its cut to AP; built by `with_ap`."""

    pruner: Pruner
    ap_share: float
    choice: Choice
    shortfall: Shortfall

    @property
    def wants(self) -> frozenset[str]:
        """What the base pruner needs in a round; AP itself needs only the weights."""
        return wants_of(self.pruner)

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
        return _ap_cut(self, ap, replace(round, masks=masks.beside(round.now)))

    def __repr__(self) -> str:
        return f"with_ap({_told(self)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InStages:
    """A pruner of two cuts, the base pruner's and AP's, with training between them; built by `in_stages`."""

    pruner: Pruner
    ap_share: float
    choice: Choice
    shortfall: Shortfall

    @property
    def wants(self) -> frozenset[str]:
        """What the base pruner needs in a round; AP itself needs only the weights."""
        return wants_of(self.pruner)

    def stages(self, alive: int, share: float) -> tuple[Callable[[Round], Masks], ...]:
        """The base pruner's cut and AP's, which together remove `share` of the `alive` weights unpruned at its start.

        Raises:
            BadValue: `share` is not in [0, 1], or less than AP's.
        """
        host, ap = shared_counts(alive, share, self.ap_share)
        return partial(host_cut, self.pruner, host), partial(_ap_cut, self, ap)

    def __call__(self, round: Round, share: float) -> Masks:
        """Raise: one call cannot train between two cuts."""
        raise BadValue(
            "A pruner cannot train, and a staged one needs training between its cuts.", asked=repr(self),
            try_="run_rounds(model, train, pruner, share, rounds), which trains between them; or with_ap, a single cut",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"in_stages({_told(self)})"


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


def cut_by_ap(round: Round, count: int, choice: Choice, within: Constraint | None = None) -> Masks:
    """The masks of the round without the `count` weights that AP chooses among those unpruned now, `within` a pattern.

    Raises:
        BadValue: there are fewer to choose from, or nothing has moved (by="still").
    """
    if count == 0:
        return round.masks
    scores, among = _order_within(round, choice, within)
    there = candidates_of(round.masks, among).alive
    if there < count:
        raise _too_few(count, there, choice)
    return cut_lowest(round.masks, scores, count, among)


def order(round: Round, choice: Choice) -> tuple[Scores, Mapping[str, Tensor]]:
    """A score for each weight, of which the lowest are cut first, and which weights may be cut.

    Raises:
        BadValue: by="still", and nothing has moved since the round began.
    """
    if choice.by == "dead":
        return _holding_down(round, choice)
    if choice.by == "still":
        return _least_moved(round, choice)
    if choice.by == "magnitude":
        scores = dict(magnitude(round))
    else:
        scores = dict(Random(choice.seed + round.masks.alive)(round))  # a different order in every round
    return scores, {name: _of_sign(now, choice.among) for name, now in _now(round)}


def _order_within(round: Round, choice: Choice, within: Constraint | None) -> tuple[Scores, Mapping[str, Tensor]]:
    """`order`, restricted to what a pattern allows, which is asked to prefer the weights that AP may cut."""
    scores, among = order(round, choice)
    if within is None:
        return scores, among
    wanted = {name: one.masked_fill(~among[name], torch.inf) for name, one in scores.items()}
    let_go = within(wanted, round.masks)
    return scores, {name: one & let_go[name].to(one.device) for name, one in among.items()}


def _within(pruner: Pruner) -> Constraint | None:
    """The pattern of the innermost base pruner."""
    while isinstance(pruner, WithAP):
        pruner = pruner.pruner
    return getattr(pruner, "within", None)


def _ap_cut(pruner: WithAP | InStages, count: int, round: Round) -> Masks:
    """AP's cut and, if it finds too few weights and `shortfall` allows, the base pruner's cut of the rest."""
    within = _within(pruner.pruner)
    if pruner.shortfall == "error" or count == 0:
        return cut_by_ap(round, count, pruner.choice, within)
    scores, among = _order_within(round, pruner.choice, within)
    found = min(count, candidates_of(round.masks, among).alive)
    masks = cut_lowest(round.masks, scores, found, among)
    return masks if found == count else host_cut(pruner.pruner, count - found, replace(round, masks=masks))


def _least_moved(round: Round, choice: Choice) -> tuple[Scores, Mapping[str, Tensor]]:
    """How far each weight has moved; tensors in which no unpruned weight has moved are frozen, and left out."""
    scores = {name: (_exact(now) - _exact(round.before[name].to(now.device))).abs() for name, now in _now(round)}
    learns = {name: bool((scores[name][mask] != 0).any()) for name, mask in round.masks.items()}
    if round.masks.alive and not any(learns.values()):
        raise BadValue(
            'No weight has moved since the round began, so by="still" cannot choose.',
            asked=f"{round.masks.alive} unchanged weights",
            try_='train first, with begin_round() or snapshot(model) before the training; or by="magnitude"',
        )  # fmt: skip
    return scores, {name: _of_sign(now, choice.among) & learns[name] for name, now in _now(round)}


def _holding_down(round: Round, choice: Choice) -> tuple[Scores, Mapping[str, Tensor]]:
    """The mean contribution of each weight to its unit; candidates are negative contributions to a dead unit.

    Source: close to Synaptic Stripping (2302.05818), which removes the connections that suppress dead units.
    """
    batches = choice.batches or ()
    units = dead_units(round.model, batches, round.masks)
    found = {name: dead for name, dead in units.items() if bool(dead.any())}
    names = [name for name in round.masks if name in found]
    means = mean_inputs(round.model, batches, names) if names else {}
    signs = _signs(round.model, batches) if means else {}
    scores, among = {}, {}
    for name, now in _now(round):
        if name not in means:
            scores[name], among[name] = torch.zeros_like(now), torch.zeros_like(now, dtype=torch.bool)
            continue
        feeds, reads = by_output(round.model, name, found[name]), by_input(round.model, name, means[name])
        turned = by_output(round.model, name, signs[name]) if name in signs else 1
        scores[name] = _exact(now) * _exact(reads) * turned
        among[name] = feeds & (scores[name] < 0) & _of_sign(now, choice.among)
    return scores, among


def _signs(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """The sign of the scale of the norms behind the units of a weight; see `signs_behind_norms`."""
    with in_eval(model):
        example = next(batches_of(batches, model)).images[:2]
    sites = find_sites(model, example)
    return signs_behind_norms(model, [site for site in sites if site.role == "nonlinearity" and "eval" in site.modes])


def _now(round: Round) -> list[tuple[str, Tensor]]:
    return [(name, round.now[name]) for name in round.masks]


def _exact(values: Tensor) -> Tensor:
    """In single precision at least: small differences in half precision would round to ties."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _of_sign(weight: Tensor, among: Among) -> Tensor:
    if among == "any":
        return torch.ones_like(weight, dtype=torch.bool)
    return weight < 0 if among == "negative" else weight > 0


def _too_few(count: int, there: int, choice: Choice) -> BadValue:
    return BadValue(
        "AP finds too few weights to cut.", asked=f"{count} {choice.words}", there=f"{there} of them",
        try_='a smaller share, among="any", or shortfall="host"',
    )  # fmt: skip


def _ap_share(share: float) -> float:
    check_share("ap_share", share)
    return share


def _shortfall(word: Shortfall) -> Shortfall:
    _check_word("shortfall", word, get_args(Shortfall))
    return word


def _check_word(name: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise BadValue(f"Unknown `{name}`.", asked=f"{name}={word!r}", there=", ".join(words))


def _told(pruner: WithAP | InStages) -> str:
    shortfall = "" if pruner.shortfall == "error" else f", shortfall={pruner.shortfall!r}"
    return f"{name_of(pruner.pruner)}, ap_share={pruner.ap_share}, {pruner.choice}{shortfall}"
