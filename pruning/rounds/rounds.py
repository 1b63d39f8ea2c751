"""Rounds: iterative prune, rewind, train, with the training loop of the caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.masks.cut import check_share
from pruning.masks.hold_in_training import Held
from pruning.masks.host_masks import host_masks
from pruning.masks.masks import Masks, warn_of_zeros
from pruning.masks.prunable import Filter, prunable
from pruning.processes import agreed, averaged, jointly
from pruning.pruners.factories import check_pruner
from pruning.rounds.checkpoint import Folder, Progress
from pruning.rounds.movement import gathered
from pruning.rounds.rewind import Rewind, Tensors, digest_of, layout_of, put_into, state_to_rewind
from pruning.rounds.round import Pruner, Round, Staged, wants_of
from surgery.errors import BadValue, NothingPicked, WrongModel, cause_of
from surgery.isolation.meta_copy import copied
from surgery.repair.batch_norm_stats import recalibrate as estimate_norms
from surgery.repair.batches import check_repeatable

Train = Callable[[nn.Module, Held], object]
After = Callable[[int, Masks], object]

_WANTS = {"gradients", "movement"}


def run_rounds(
    model: nn.Module,
    train: Train,
    pruner: Pruner | Staged,
    share: float,
    rounds: int,
    *,
    rewind: Rewind = "init",
    train_first: bool = True,
    keep: Filter | None = None,
    masks: Masks | None = None,
    gradients: Callable[[nn.Module], object] | None = None,
    recalibrate: Iterable[Any] | None = None,
    folder: str | Path | None = None,
    after: After | None = None,
) -> Masks:
    """Prune a network in rounds, each of which cuts a share of the living weights; returns the masks at the end.

    First `train(model, held)`, unless `train_first` is False. Then in every round the pruner cuts `share` (0 to 1) of
    the living weights, the model is rewound, its batch norms are estimated anew if `recalibrate` gives batches for
    that (see `surgery.recalibrate`), `train(model, held)` is called, then `after(number, masks)` with numbers from 1.
    The model is changed in place. A pruner of several stages (`in_stages`) makes several cuts with a training between
    them, and the rewind is after the last.

    `train` is the whole training, with an optimiser of its own; its steps run inside `with held(optimizer):`, or
    `held(optimizer, also=[ema.module])`, which keeps pruned weights at zero; `held.masks` says which live. Gradients
    are cleared before it.

    `rewind="init"` goes back to the model as it is given, a state dict to what that holds, None trains on. Parameters
    and buffers, norm statistics among them, are copied, so nothing that trains is shared; pruned weights are zero. A
    buffer that a state dict leaves out stays. A round begins with the training before its first cut: what the weights
    were there is the pruner's `before`, for all its cuts, and what they do from there on is its `movement`. Without a
    training first, round 1 begins where it cuts.

    `keep` says which weights are pruned, see `prunable`; `masks` says instead which of them live at the start, by
    default all, also those that merely are zero: a network that was pruned before needs its masks, or where there are
    none `masks=Masks.of(model)`, which takes zeros for pruned (weights that are zero in part are warned of). A pruner
    that wants gradients needs `gradients(model)`, which runs forward and backward on some batches and leaves gradients
    on the parameters; modes, buffers and random numbers are afterwards as before. A pruner that has `check(share)` can
    refuse the share there, before anything is trained. Where torch.distributed runs, every process makes the same call:
    gradients and movement are averaged over all, and masks that differ are refused before they are laid over anything.
    What fails in one of them between two trainings ends the call in all.

    With a `folder`, what is done is kept there after every training and every cut, and the same call goes on from
    there, also in another process. If `train` depends on nothing but the model and the random generators of torch,
    numpy and Python, a run that was killed ends on the CPU bit for bit as one that was not. A training or an `after`
    that was cut short is called again. A finished folder gives its model and masks at once. One folder per process.
    Another call is refused; but a pruner is told by its `repr` without addresses, where two lambdas look alike,
    batches by whether there are any, and `train`, `gradients` and `after` not at all.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: no weight may be pruned, or `recalibrate` finds no batch norm.
        BadValue: a share outside [0, 1], rounds below 0, weights that are not finite or under the masks of a host, a
            pruner that takes no round and share (a factory that was not called) or wants what is not there, batches
            for `recalibrate` that the model does not take. Only when it happens: the pruner returns something else
            than a cut, or other masks than in another process, `gradients` fails, pruned weights came back to life in
            training, weights are not finite, or one of them has no gradient, or no movement, where the pruner wants
            that.
        WrongModel: `masks`, the state in `rewind` or the `folder` are of another model, the folder of another call.
        BadFile: the folder is damaged.

    Source: Frankle and Carbin 2019, "The Lottery Ticket Hypothesis", section 2, iterative pruning with resetting.
    """
    _check_values(share, rounds, rewind, masks, keep)
    _check_calls(train=train, gradients=gradients, after=after)
    _check_wants(pruner, train_first, gradients)
    if callable(check := getattr(pruner, "check", None)):
        check(share)
    if masks is not None:
        masks.pairs(model)
    wanted = keep if masks is None else partial(_named, masks)
    weights = {name: param.detach() for name, param in prunable(model, wanted).items()}
    _check_no_host(model, weights)
    back = jointly(lambda: state_to_rewind(model, rewind), "begin")
    asked = {
        "share": float(share), "rounds": rounds, "train_first": train_first, "pruner": _told(pruner),
        "rewind": digest_of(back) if isinstance(rewind, Mapping) and back is not None else rewind,
        "masks": masks if masks is None else digest_of(masks), "prunable": list(weights),
        "recalibrate": recalibrate is not None, "layout": layout_of(model),
    }  # fmt: skip
    kept = None if folder is None else Folder(Path(folder), asked)
    saved = jointly(lambda: None if kept is None else kept.load(model), "begin")
    run = _Run(model, train, pruner, share, rounds, back, gradients, recalibrate, after)
    if saved is not None and saved.rewind is not None:
        run = replace(run, rewind=saved.rewind)
    living = Masks.full(model, keep) if masks is None else masks
    progress = jointly(
        lambda: run.start(living, train_first) if saved is None else _beside(saved.progress, weights), "begin"
    )
    if saved is None and masks is None:
        warn_of_zeros(model, progress.masks, stacklevel=2)
    agreed(lambda: progress.masks, (progress.next, progress.number, progress.stage))
    if kept is not None and saved is not None:
        saved.restore(model)
        kept.tidy()
    else:
        progress.masks.lay_over(model)
        _keep(kept, run, progress)
    while progress.next != "done":
        progress = run.step(progress)
        _keep(kept, run, progress)
    return progress.masks


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The arguments of a run; each step takes where it stands and says where it stands then."""

    model: nn.Module
    train: Train
    pruner: Pruner | Staged
    share: float
    rounds: int
    rewind: Tensors | None
    gradients: Callable[[nn.Module], object] | None
    recalibrate: Iterable[Any] | None
    after: After | None

    def start(self, masks: Masks, train_first: bool) -> Progress:
        """Where a new run stands, after all that can be checked in advance; the model is not changed."""
        before = _weights(self.model, masks)
        round = Round.of(self.model, before, masks)
        if not self._cuts(round.masks.alive):
            raise BadValue("The pruner has no stages.", asked=_told(self.pruner))
        if self.recalibrate is not None:
            _rehearse(self.model, self.recalibrate)
        start = Progress("train", 0, 0, round.masks.alive, round.masks, before, {})
        return start if train_first else self._next_round(start)

    def step(self, now: Progress) -> Progress:
        """Train, cut, or tell the caller, whatever comes next."""
        if now.next == "train":
            return self._train(now)
        if now.next == "cut":
            return self._cut(now)
        if self.after is not None:
            self.after(now.number, now.masks)
        return self._next_round(now)

    def _next_round(self, now: Progress) -> Progress:
        if now.number == self.rounds:
            return replace(now, next="done")
        return replace(now, next="cut", number=now.number + 1, stage=0, alive=now.masks.alive)

    def _cuts(self, alive: int) -> Sequence[Callable[[Round], Masks]]:
        if not isinstance(getattr(self.pruner, "stages", None), Callable):  # type: ignore[arg-type]
            return [lambda round: self.pruner(round, self.share)]  # type: ignore[operator]
        return self.pruner.stages(alive, self.share)  # type: ignore[union-attr]

    def _train(self, now: Progress) -> Progress:
        movement = {name: one.clone() for name, one in now.movement.items()}
        self.model.zero_grad(set_to_none=True)
        wants = "movement" in wants_of(self.pruner)
        try:
            self.train(self.model, Held(self.model, now.masks, movement if wants else None))
        except Exception as error:
            error.add_note(f"In a training of run_rounds: {_where(now)}.")
            raise
        return jointly(lambda: self._trained(replace(now, movement=movement)), "train")

    def _trained(self, now: Progress) -> Progress:
        """What comes after a training, if it left the weights as it should."""
        now.masks.check_zero(self.model)
        if "movement" in wants_of(self.pruner) and not now.movement:
            raise BadValue("The pruner wants movement, and train() never entered `held`.", try_=_WITH)
        if now.number and now.stage == len(self._cuts(now.alive)):
            return replace(now, next="after") if self.after else self._next_round(now)
        return replace(now, next="cut") if now.number else self._next_round(now)

    def _cut(self, now: Progress) -> Progress:
        cuts, round = jointly(lambda: (self._cuts(now.alive), Round.of(self.model, now.before, now.masks)), "cut")
        if "movement" in wants_of(self.pruner):
            round = replace(round, movement=averaged(lambda: now.movement))
        if (gradients := self.gradients) is not None and "gradients" in wants_of(self.pruner):
            told = averaged(lambda: gathered(self.model, now.masks, gradients))
            round = replace(round, gradients=told)
        masks = agreed(lambda: _checked(cuts[now.stage](round), now.masks, self.pruner))
        now = replace(now, next="train", stage=now.stage + 1, masks=masks)
        return jointly(lambda: self._laid(now, last=now.stage == len(cuts)), "go on after the cut")

    def _laid(self, now: Progress, last: bool) -> Progress:
        """Lay the masks of a cut over the model, which is rewound after the last."""
        if last:
            put_into(self.model, self.rewind or {})
        now.masks.lay_over(self.model)
        if self.recalibrate is not None:
            estimate_norms(self.model, self.recalibrate)
        return replace(now, before=_weights(self.model, now.masks), movement={}) if last else now


def _where(now: Progress) -> str:
    """Which training it is, for messages."""
    if not now.number:
        return "before the first cut"
    return f"round {now.number}, after its cut {now.stage}"


_WITH = "with held(optimizer): around the steps of train(model, held)"


def _named(masks: Masks, name: str, _: nn.Module) -> bool:
    return name in masks


def _keep(folder: Folder | None, run: _Run, progress: Progress) -> None:
    if folder is not None:
        folder.save(run.model, progress, run.rewind)


def _weights(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """A copy of the weights under the masks."""
    pairs = zip(masks, masks.pairs(model), strict=True)
    return {name: param.detach().masked_fill(~mask.to(param.device), 0) for name, (param, mask) in pairs}


def _beside(progress: Progress, weights: Tensors) -> Progress:
    """The same on the devices of the weights."""
    before, movement = (
        {name: one.to(weights[name].device) for name, one in part.items()}
        for part in (progress.before, progress.movement)
    )
    return replace(progress, masks=progress.masks.beside(weights), before=before, movement=movement)


def _checked(masks: object, former: Masks, pruner: object) -> Masks:
    """What a pruner returned, if it is a cut of the masks before."""
    if not isinstance(masks, Masks):
        raise BadValue("The pruner returns no masks.", asked=_told(pruner), there=type(masks).__name__)
    shapes = [{name: mask.shape for name, mask in one.items()} for one in (former, masks)]
    if shapes[0] != shapes[1]:
        raise WrongModel("The pruner returns masks of other weights.", asked=_told(pruner), try_="round.masks, cut")
    masks = Masks({name: masks[name].to(mask.device) for name, mask in former.items()})
    revived = sum(int((mask & ~former[name]).sum()) for name, mask in masks.items())
    if revived:
        raise BadValue("The pruner lets pruned weights live again.", asked=_told(pruner), there=f"{revived} of them")
    return masks


def _check_values(share: float, rounds: int, rewind: object, masks: Masks | None, keep: Filter | None) -> None:
    check_share("share", share)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise BadValue("`rounds` is a whole number from 0.", asked=f"rounds={rounds!r}")
    if not (rewind is None or rewind == "init" or isinstance(rewind, Mapping)):
        raise BadValue("A model is rewound to its start, to a state dict, or not at all.", asked=f"rewind={rewind!r}",
                       try_='"init", a state dict, or None')  # fmt: skip
    if masks is not None and not isinstance(masks, Masks):
        raise BadValue("`masks` are no Masks.", there=type(masks).__name__, try_="Masks(tensors), Masks.of(model)")
    if masks is not None and keep is not None:
        raise BadValue("`masks` say already which weights are pruned.", asked="masks and keep", try_="one of them")


def _check_calls(train: object, gradients: object, after: object) -> None:
    for name, one in (("train", train), ("gradients", gradients), ("after", after)):
        if not callable(one) and (one is not None or name == "train"):
            raise BadValue(f"`{name}` is a function.", there=repr(one), try_=f"def {name}({_TAKES[name]}): ...")


_TAKES = {"train": "model, held", "gradients": "model", "after": "number, masks"}


def _check_no_host(model: nn.Module, weights: Iterable[str]) -> None:
    hosts = host_masks(model)
    for name in weights:
        if name in hosts:
            raise BadValue(
                f"{name} is under the masks of a host, which would not follow.", there="torch's own pruning, or NNCF's",
                try_="masks=Masks.full(model) & pruning.hosts.torch_prune.finish(model), which ends the host's; or "
                     "ActivateWhilePruning, where the host cuts",
            )  # fmt: skip


def _check_wants(pruner: object, train_first: bool, gradients: object) -> None:
    check_pruner(pruner)
    wants = wants_of(pruner)
    if unknown := wants - _WANTS:
        raise BadValue("The pruner wants what no round has.", asked=", ".join(sorted(unknown)), try_=str(_WANTS))
    if "gradients" in wants and gradients is None:
        raise BadValue("The pruner wants gradients, and nothing makes them.", asked=_told(pruner),
                       try_="gradients=lambda model: ..., which runs forward and backward on some batches")  # fmt: skip
    if "movement" in wants and not train_first:
        raise BadValue("The pruner wants the movement of a training, and cuts before the first.",
                       asked="train_first=False", try_="train_first=True")  # fmt: skip


def _told(pruner: object) -> str:
    """A pruner in words that are the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(pruner))


def _rehearse(model: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the norms of a copy, so that what is wrong with the batches is said before anything is trained."""
    check_repeatable(batches)
    if not any(isinstance(one, _BatchNorm) and one.running_mean is not None for one in model.modules()):
        raise NothingPicked("The model has no batch norm to estimate.", asked="recalibrate=", try_="recalibrate=None")
    try:
        estimate_norms(copied(model), batches)
    except BadValue as error:
        cause = f" {cause_of(error.__cause__)}" if error.__cause__ is not None else ""
        raise BadValue("Norms cannot be estimated on the batches for `recalibrate`.",
                       there=f"{str(error).splitlines()[0]}{cause}") from error  # fmt: skip
