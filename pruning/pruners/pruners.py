"""Pruners: cut exactly a fraction of the unpruned weights, the lowest by some criterion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pruning.masks.cut import candidates_of, check_share, count_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.pruners import criteria as scores
from pruning.pruners.factories import check_function
from pruning.rounds.round import Criterion, Round, Scores, wants_of
from surgery.errors import BadValue

Constraint = Callable[[Scores, Masks], Mapping[str, Tensor]]  # which weights may be cut: name -> boolean tensor

Per = Literal["model", "layer"]
Elsewhere = Literal["keep", "cut"]

_DIGITS = 6  # remainders that agree to this many digits count as equal


@dataclass(frozen=True)
class Lowest:
    """A pruner that cuts the unpruned weights of the lowest scores: of the whole model, or a fraction of each layer.

    Called with a round and a fraction of the unpruned weights it returns the masks without exactly that many weights,
    rounded down; ties are broken by position. Per layer, each layer's count is rounded down, and the missing ones are
    taken one by one from the layers with the largest remainders, the first of equal ones. `within` says which weights
    may be cut at all.

    Raises:
        BadValue: `per` is neither "model" nor "layer", or the criterion or `within` is not such a function (for
            example an uncalled factory); when called: the share is not in [0, 1], the score of an unpruned weight is
            missing or NaN, or fewer weights may be cut. Nothing has changed.
    """

    criterion: Criterion
    per: Per = "model"
    within: Constraint | None = None

    def __post_init__(self) -> None:
        if self.per not in get_args(Per):
            raise BadValue("Scores are compared over the model or in each layer.", asked=f"per={self.per!r}",
                           try_=" or ".join(get_args(Per)))  # fmt: skip
        check_function("A criterion must be a function of a round.", "criterion", self.criterion, takes=1)
        if self.within is not None:
            check_function("`within` must be a function of scores and masks.", "within", self.within, takes=2)

    @property
    def wants(self) -> frozenset[str]:
        """What the criterion needs in the round: "gradients", "movement"."""
        return wants_of(self.criterion)

    def __repr__(self) -> str:
        within = "" if self.within is None else f", within={_name(self.within)}"
        return f"lowest({_name(self.criterion)}, per={self.per!r}{within})"

    def __call__(self, round: Round, share: float) -> Masks:
        check_share("share", share)
        masks = round.masks
        found = self.criterion(round)
        _check_scores(found, masks)
        among = None if self.within is None else _checked_among(self.within(found, masks), masks)
        candidates = candidates_of(masks, among)
        counts = _wanted(self.per, masks, candidates, share)
        if not _fits(self.per, masks, candidates, share):
            raise _too_few(self, masks, candidates, share, counts)
        if self.per == "model":
            return cut_lowest(masks, found, count_of(share, masks.alive), among)
        layers = (cut_lowest(Masks({name: masks[name]}), found, count, among) for name, count in counts.items())
        return Masks({name: mask for layer in layers for name, mask in layer.items()})


def lowest(criterion: Criterion, per: Per = "model", within: Constraint | None = None) -> Lowest:
    """Cut the lowest scores of any criterion, compared over the whole model or in each layer.

    A criterion is a function of a round that returns a tensor of scores for every name in its masks; one that needs
    gradients or movement has an attribute `wants`, a set of "gradients" and "movement".

    Raises:
        BadValue: `per` is neither "model" nor "layer", or one of the two is not such a function.
    """
    return Lowest(criterion, per, within)


def global_magnitude(within: Constraint | None = None) -> Lowest:
    """Cut the smallest weights of the whole model. See `criteria.magnitude`."""
    return Lowest(scores.magnitude, "model", within)


def layer_magnitude(within: Constraint | None = None) -> Lowest:
    """Cut the smallest weights of each layer, the same fraction of each. See `criteria.magnitude`."""
    return Lowest(scores.magnitude, "layer", within)


def global_gradient(within: Constraint | None = None) -> Lowest:
    """Cut the weights of the least first-order effect on the loss, `|w g|`, in the model. See `criteria.gradient`."""
    return Lowest(scores.gradient, "model", within)


def snip(within: Constraint | None = None) -> Lowest:
    """Cut the weights of the least connection sensitivity over the whole model. See `criteria.snip`."""
    return Lowest(scores.snip, "model", within)


def lamp(within: Constraint | None = None) -> Lowest:
    """Cut the weights of the lowest LAMP scores, which sets the sparsity of each layer. See `criteria.lamp`."""
    return Lowest(scores.lamp, "model", within)


def lookahead(within: Constraint | None = None) -> Lowest:
    """Cut the weights of each layer that matter least together with its neighbours. See `criteria.lookahead`."""
    return Lowest(scores.lookahead, "layer", within)


def movement(within: Constraint | None = None) -> Lowest:
    """Cut the weights that shrank most since the round began, over the whole model. See `criteria.movement`."""
    return Lowest(scores.movement, "model", within)


def accumulated_movement(within: Constraint | None = None) -> Lowest:
    """Cut the weights that training pushed towards zero, over the whole model. See `criteria.accumulated_movement`."""
    return Lowest(scores.accumulated_movement, "model", within)


def random_weights(seed: int = 0, within: Constraint | None = None) -> Lowest:
    """Cut weights at random, the same for the same seed. See `criteria.Random`."""
    return Lowest(scores.Random(seed), "model", within)


@dataclass(frozen=True)
class NOfM:
    """A constraint: of m weights in a row along axis 1 at least n stay. Made by `n_of_m`."""

    n: int
    m: int
    elsewhere: Elsewhere = "keep"

    def __repr__(self) -> str:
        elsewhere = "" if self.elsewhere == "keep" else f", elsewhere={self.elsewhere!r}"
        return f"n_of_m({self.n}, {self.m}{elsewhere})"

    def __call__(self, found: Scores, masks: Masks) -> Mapping[str, Tensor]:
        return {name: self._among(found[name].to(mask.device), mask) for name, mask in masks.items()}

    def _among(self, found: Tensor, mask: Tensor) -> Tensor:
        if mask.shape[1] % self.m:
            return torch.full_like(mask, self.elsewhere == "cut")
        groups, unpruned = _in_groups(found, self.m), _in_groups(mask, self.m)
        # Pruned ones first, then the unpruned from the lowest score: stable sorts keep the order of equal ones.
        order = groups.argsort(dim=-1, stable=True)
        order = order.gather(-1, unpruned.gather(-1, order).to(torch.uint8).argsort(dim=-1, stable=True))
        among = torch.ones_like(unpruned).scatter(-1, order[..., self.m - self.n :], False)
        return among.flatten(-2).movedim(-1, 1)


def n_of_m(n: int = 2, m: int = 4, elsewhere: Elsewhere = "keep") -> NOfM:
    """An n:m pattern for `within`: in every group of m consecutive weights along axis 1 at least the n highest stay.

    Pruning the fraction 1 - n / m of a dense layer then gives exactly n:m (2:4 for sparse tensor cores); smaller
    fractions get there round by round, since pruned weights count. Axis 1 are the inputs of a linear layer or
    convolution (the outputs of a transposed one). Layers where it is not a multiple of m, such as a first convolution
    of three channels, keep all their weights, or with elsewhere="cut" may lose any.

    Raises:
        BadValue: not 1 <= n <= m, or `elsewhere` is neither "keep" nor "cut".
    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks", section 3 (2:4); Zhou et al. 2021,
    "Learning N:M fine-grained structured sparse neural networks from scratch", section 3.
    """
    if bool in (type(n), type(m)) or not isinstance(n, int) or not isinstance(m, int) or not 1 <= n <= m:
        raise BadValue("Of m consecutive weights n stay.", asked=f"n={n!r}, m={m!r}", try_="n_of_m(2, 4)")
    if elsewhere not in get_args(Elsewhere):
        raise BadValue("Layers without whole groups keep their weights or may lose any.",
                       asked=f"elsewhere={elsewhere!r}", try_=" or ".join(get_args(Elsewhere)))  # fmt: skip
    return NOfM(n, m, elsewhere)


def _in_groups(tensor: Tensor, m: int) -> Tensor:
    """Axis 1 as the last two axes, in groups of m."""
    last = tensor.movedim(1, -1)
    return last.reshape(*last.shape[:-1], last.shape[-1] // m, m)


def _name(function: object) -> str:
    return str(getattr(function, "__name__", None) or repr(function))


def _check_scores(found: Scores, masks: Masks) -> None:
    for name, mask in masks.items():
        if name not in found or found[name].shape != mask.shape:
            there = f"{tuple(found[name].shape)}" if name in found else f"no {name}"
            raise BadValue(f"The criterion does not give a score to every weight of {name} {tuple(mask.shape)}.",
                           asked=there)  # fmt: skip
        if bool(found[name][mask].isnan().any()):
            raise BadValue(f"Unpruned weights of {name} have NaN scores.")


def _checked_among(among: Mapping[str, Tensor], masks: Masks) -> Mapping[str, Tensor]:
    for name, mask in masks.items():
        if name not in among or among[name].shape != mask.shape or among[name].dtype != torch.bool:
            there = f"{among[name].dtype} {tuple(among[name].shape)}" if name in among else f"no {name}"
            raise BadValue("A constraint must say for every weight whether it may be cut.",
                           asked=there, there=f"{name} {tuple(mask.shape)}, boolean")  # fmt: skip
    return {name: among[name].to(mask.device) for name, mask in masks.items()}


def _wanted(per: Per, masks: Masks, candidates: Masks, share: float) -> dict[str, int]:
    """How many weights each layer loses; over the whole model, where the scores decide, only rounded down."""
    alive = {name: int(mask.sum()) for name, mask in masks.items()}
    counts = {name: math.floor(share * count) for name, count in alive.items()}
    if per == "model":
        return counts
    room = {name: int(mask.sum()) - counts[name] for name, mask in candidates.items()}
    missing = count_of(share, sum(alive.values())) - sum(counts.values())
    remainders = {name: round(share * count - counts[name], _DIGITS) for name, count in alive.items()}
    takers = [name for name in sorted(alive, key=lambda name: -remainders[name]) if room[name] > 0]
    for name in takers[:missing]:
        counts[name] += 1
    return counts


def _fits(per: Per, masks: Masks, candidates: Masks, share: float) -> bool:
    """Whether enough weights may be cut."""
    count = count_of(share, masks.alive)
    if per == "model":
        return count <= candidates.alive
    counts = _wanted(per, masks, candidates, share)
    return sum(counts.values()) == count and all(counts[name] <= int(mask.sum()) for name, mask in candidates.items())


def _too_few(pruner: Lowest, masks: Masks, candidates: Masks, share: float, counts: dict[str, int]) -> BadValue:
    """The error, whose hints are the possible ways out."""
    room = {name: int(mask.sum()) for name, mask in candidates.items()}
    short = [name for name, count in counts.items() if count > room[name]]
    each = pruner.per == "layer"
    ways = []
    if all(room[name] for name in counts if bool(masks[name].any())) if each else any(room.values()):
        ways.append("a smaller share")
    if each and _fits("model", masks, candidates, share):
        ways.append('per="model"')
    within = pruner.within
    if isinstance(within, NOfM) and within.elsewhere == "keep":
        free = Masks({name: masks[name] if masks[name].shape[1] % within.m else mask
                      for name, mask in candidates.items()})  # fmt: skip
        if _fits(pruner.per, masks, free, share):
            ways.append(f'n_of_m({within.n}, {within.m}, elsewhere="cut")')
    rest, left = (Masks({name: part[name] for name in part if name not in short}) for part in (masks, candidates))
    if 0 < len(rest) < len(masks) and rest.alive and _fits(pruner.per, rest, left, share):
        ways.append("keep=... without " + ", ".join(short[:3]) + (", ..." if len(short) > 3 else ""))
    named = short or list(counts)
    return BadValue(
        f"There are too few weights to cut{' in a layer' if each else ''}.",
        asked=_listed(named, counts) if each else f"{count_of(share, masks.alive)} weights",
        there=_listed(named, room) if each else f"{candidates.alive} that may be cut", try_="; or ".join(ways),
    )  # fmt: skip


def _listed(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} of {name}" for name in names[:3]) + (", ..." if len(names) > 3 else "")
