"""Choice: which unpruned weights AP cuts, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pruning.dead.measure import Measured, measure
from pruning.dead.meter import DeadNeuronMeter
from pruning.dead.suppression import suppression
from pruning.masks.cut import candidates_of, cut_lowest
from pruning.masks.masks import Masks
from pruning.pruners.criteria import Random, magnitude
from pruning.pruners.pruners import Constraint
from pruning.rounds.round import Round, Scores
from surgery.errors import BadValue, WrongModel
from surgery.repair.batches import check_repeatable

Among = Literal["negative", "positive", "any"]
By = Literal["still", "dead", "magnitude", "random"]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which unpruned weights AP cuts first; see `with_ap`."""

    among: Among = "negative"
    by: By = "still"
    batches: Iterable[Any] | None = None
    seed: int = 0
    meter: DeadNeuronMeter | None = None

    def __post_init__(self) -> None:
        check_word("among", self.among, get_args(Among))
        check_word("by", self.by, get_args(By))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadValue("`seed` must be an integer.", asked=f"seed={self.seed!r}")
        if self.batches is not None and self.meter is not None:
            raise BadValue("`batches` and `meter` exclude each other.", asked="batches and meter", try_="one of them")
        if self.batches is not None:
            check_repeatable(self.batches)
        elif self.meter is not None:
            _check_meter(self.meter, self.by)
        elif self.by == "dead":
            raise BadValue(
                'by="dead" needs batches to measure which units are silent.', asked="no batches",
                try_="batches=loader, or meter=DeadNeuronMeter(model, inputs=True) around the training",
            )  # fmt: skip

    @property
    def words(self) -> str:
        """The weights it picks, for messages."""
        sign = "" if self.among == "any" else f"{self.among} "
        return f"unpruned {sign}weights" + (" that suppress dead units" if self.by == "dead" else "")

    def measured(self, model: nn.Module, names: Iterable[str]) -> Measured:
        """Which units are silent, on the batches or in the training that was metered, and the inputs of these weights.

        Raises:
            As `dead_neurons`; WrongModel: the meter measures another model.
        """
        if self.meter is None:
            return measure(model, self.batches or (), 0.0, "nonlinearity", inputs_of=names)
        if self.meter.model is not model:
            raise WrongModel(
                "The meter measures another model.", asked=repr(self.meter), there=type(model).__name__,
                try_="a DeadNeuronMeter of the model that is pruned",
            )  # fmt: skip
        return self.meter.measured()

    def __str__(self) -> str:
        seed = f", seed={self.seed}" if self.by == "random" else ""
        meter = ", meter=DeadNeuronMeter" if self.meter is not None else ""
        return f"among={self.among!r}, by={self.by!r}{seed}{meter}"


def cut_by_ap(round: Round, count: int, choice: Choice, within: Constraint | None = None) -> Masks:
    """The masks of the round without the `count` weights that AP chooses among those unpruned now, `within` a pattern.

    Raises:
        BadValue: there are fewer to choose from, or nothing has moved (by="still").
    """
    if count == 0:
        return round.masks
    scores, among = order_within(round, choice, within)
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
        return _suppressing(round, choice)
    if choice.by == "still":
        return _least_moved(round, choice)
    if choice.by == "magnitude":
        scores = dict(magnitude(round))
    else:
        scores = dict(Random(choice.seed + round.masks.alive)(round))  # a different order in every round
    return scores, {name: _of_sign(now, choice.among) for name, now in _now(round)}


def order_within(round: Round, choice: Choice, within: Constraint | None) -> tuple[Scores, Mapping[str, Tensor]]:
    """`order`, restricted to what a pattern allows, which is asked to prefer the weights that AP may cut."""
    scores, among = order(round, choice)
    if within is None:
        return scores, among
    wanted = {name: value.masked_fill(~among[name], torch.inf) for name, value in scores.items()}
    let_go = within(wanted, round.masks)
    return scores, {name: value & let_go[name].to(value.device) for name, value in among.items()}


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


def _suppressing(round: Round, choice: Choice) -> tuple[Scores, Mapping[str, Tensor]]:
    """The mean contribution of each weight to its unit; candidates are negative contributions to a dead unit."""
    weights = dict(_now(round))
    found = suppression(round.model, weights, round.masks, choice.measured(round.model, weights))
    scores = {name: found[name] if name in found else torch.zeros_like(now) for name, now in _now(round)}
    return scores, {name: (scores[name] < 0) & _of_sign(now, choice.among) for name, now in _now(round)}


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


def _check_meter(meter: DeadNeuronMeter, by: By) -> None:
    if by != "dead":
        raise BadValue(
            "A meter counts dead units, which only one choice asks for.", asked=f"by={by!r}", try_='by="dead"'
        )
    if not isinstance(meter, DeadNeuronMeter) or not meter.layers:
        raise BadValue(
            "The meter must measure the inputs of layers, too.", asked=repr(meter),
            try_="DeadNeuronMeter(model, inputs=True)",
        )  # fmt: skip


def check_word(name: str, word: str, words: tuple[str, ...]) -> None:
    """Check that a word is one of these.

    Raises:
        BadValue: it is another one.
    """
    if word not in words:
        raise BadValue(f"Unknown `{name}`.", asked=f"{name}={word!r}", there=", ".join(words))
