"""Rounds: iterative pruning, rewinding and training, with the caller's training loop."""

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
from pruning.rounds.compensation import compensate as make_up_for_cut
from pruning.rounds.compensation import differences
from pruning.rounds.movement import gathered
from pruning.rounds.rewind import Rewind, digest_of, layout_of, put_into, state_to_rewind
from pruning.rounds.round import Pruner, Round, Staged, wants_of
from surgery.errors import BadValue, NothingPicked, WrongModel, cause_of, first_line
from surgery.isolation.meta_copy import copied
from surgery.repair.batch_norm_stats import recalibrate as estimate_norms
from surgery.repair.batches import check_repeatable
from surgery.tensors import Tensors

Train = Callable[[nn.Module, Held], object]
After = Callable[[int, Masks], object]

_WANTS = {"gradients", "movement", "training"}


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
    compensate: Iterable[Any] | None = None,
    recalibrate: Iterable[Any] | None = None,
    folder: str | Path | None = None,
    after: After | None = None,
) -> Masks:
    """Prune a network in rounds, each of which cuts a fraction of the unpruned weights; returns the final masks.

    First `train(model, held)`, unless `train_first` is False. Then in every round the pruner cuts the fraction `share`
    (0 to 1) of the unpruned weights, the model is rewound, the mean of what was cut is made up for if `compensate`
    gives batches for that (see `pruning.compensate`; after a rewind, of all that is pruned), its batch norm statistics
    are re-estimated if `recalibrate` does (see `surgery.recalibrate`), `train(model, held)` is called, then
    `after(number, masks)` with numbers from 1. The model is changed in place. A staged pruner (`in_stages`) makes
    several cuts with training between them, and the rewind comes after the last.

    `train` is the whole training, with its own optimiser; its steps run inside `with held(optimizer):`, or
    `held(optimizer, also=[ema.module])`, which keeps pruned weights at zero; `held.masks` are the masks in force.
    Gradients are cleared before it.

    `rewind="init"` resets to the given model, a state dict to its content, None continues training. Parameters and
    buffers, including norm statistics, are copied, so nothing trainable is shared; pruned weights are zero. A buffer
    missing from a state dict stays. A round begins with the training before its first cut: the weights at that point
    are the pruner's `before`, for all its cuts, and `movement` accumulates from there. Without a first training, round
    1 begins at its cut.

    `keep` selects the weights to prune, see `prunable`; alternatively `masks` says which of them are unpruned at the
    start, by default all, even zeros: a network that was pruned before needs its masks or, without any,
    `masks=Masks.of(model)`, which treats zeros as pruned (partly zero weights give a warning). A pruner that wants
    gradients needs `gradients(model)`, which runs forward and backward on some batches and leaves gradients on the
    parameters; modes, buffers and the random state are restored afterwards. A pruner with `check(share)` can reject the
    share there, before anything is trained. With torch.distributed, every process makes the same call: gradients and
    movement are averaged over all, and masks that differ raise an error before they are applied. A failure in one of
    them between two trainings ends the call in all.

    With a `folder`, progress is saved there after every training and every cut, and the same call resumes from there,
    even in another process. If `train` depends only on the model and the random generators of torch, numpy and Python,
    a run that was killed and resumed on the CPU is bit-identical to an uninterrupted one. An interrupted training or
    `after` is called again. A finished folder gives its model and masks at once. Use one folder per process. A
    different call raises an error; but a pruner is identified by its `repr` without addresses, so that two lambdas look
    alike, batches only by whether there are any, and `train`, `gradients` and `after` not at all.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: no weight may be pruned, `compensate` finds neither bias nor batch norm, or `recalibrate` none of
            the latter.
        BadValue: a share outside [0, 1], rounds below 0, weights that are not finite or masked by a pruning library, a
            pruner that does not take (round, share) (for example an uncalled factory) or wants what is not available,
            batches for one of the two that fail in the model. During the run: the pruner returns something other than a
            cut, or other masks than in another process, `gradients` fails, pruned weights are nonzero after a training,
            weights are not finite, or a weight lacks the gradient or movement that the pruner wants.
        WrongModel: `masks`, the state in `rewind` or the `folder` belong to another model, or the folder to another
            call.
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
        "share": float(share), "rounds": rounds, "train_first": train_first, "pruner": _stable_repr(pruner),
        "rewind": digest_of(back) if isinstance(rewind, Mapping) and back is not None else rewind,
        "masks": masks if masks is None else digest_of(masks), "prunable": list(weights),
        "compensate": compensate is not None, "recalibrate": recalibrate is not None, "layout": layout_of(model),
    }  # fmt: skip
    kept = None if folder is None else Folder(Path(folder), asked)
    saved = jointly(lambda: None if kept is None else kept.load(model), "begin")
    run = _Run(model, train, pruner, share, rounds, back, gradients, compensate, recalibrate, after)
    if saved is not None and saved.rewind is not None:
        run = replace(run, rewind=saved.rewind)
    initial = Masks.full(model, keep) if masks is None else masks
    progress = jointly(
        lambda: run.start(initial, train_first) if saved is None else _on_devices_of(saved.progress, weights), "begin"
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
        if progress.next in ("train", "done") or "training" not in wants_of(pruner):
            _keep(kept, run, progress)
    return progress.masks


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The arguments of a run; each step maps one `Progress` to the next."""

    model: nn.Module
    train: Train
    pruner: Pruner | Staged
    share: float
    rounds: int
    rewind: Tensors | None
    gradients: Callable[[nn.Module], object] | None
    compensate: Iterable[Any] | None
    recalibrate: Iterable[Any] | None
    after: After | None

    def start(self, masks: Masks, train_first: bool) -> Progress:
        """The initial progress, after all checks that are possible in advance; the model is unchanged."""
        before = _weights(self.model, masks)
        round = Round.of(self.model, before, masks)
        if not self._cuts(round.masks.alive):
            raise BadValue("The pruner has no stages.", asked=_stable_repr(self.pruner))
        if self.compensate is not None:
            check_repeatable(self.compensate)
            differences(self.model, masks, self.compensate)  # problems with the batches are reported before a training
        if self.recalibrate is not None:
            _rehearse(self.model, self.recalibrate)
        start = Progress("train", 0, 0, round.masks.alive, round.masks, before, {})
        return start if train_first else self._next_round(start)

    def step(self, now: Progress) -> Progress:
        """Train, cut, or call `after`, whatever comes next."""
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
        movement = {name: tensor.clone() for name, tensor in now.movement.items()}
        self.model.zero_grad(set_to_none=True)
        wants = "movement" in wants_of(self.pruner)
        try:
            self.train(self.model, Held(self.model, now.masks, movement if wants else None))
        except Exception as error:
            error.add_note(f"In a training of run_rounds: {_where(now)}.")
            raise
        return jointly(lambda: self._trained(replace(now, movement=movement)), "train")

    def _trained(self, now: Progress) -> Progress:
        """The progress after a training, after a check of the weights."""
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
            averaged_gradients = averaged(lambda: gathered(self.model, now.masks, gradients))
            round = replace(round, gradients=averaged_gradients)
        masks = agreed(lambda: _checked(cuts[now.stage](round), now.masks, self.pruner))
        now = replace(now, next="train", stage=now.stage + 1, masks=masks)
        last = now.stage == len(cuts)
        if last:
            jointly(lambda: put_into(self.model, self.rewind or {}), "rewind")
        if self.compensate is not None:
            make_up_for_cut(self.model, masks, self.compensate)
        return jointly(lambda: self._with_masks_applied(now, last), "go on after the cut")

    def _with_masks_applied(self, now: Progress, last: bool) -> Progress:
        """Apply the masks of a cut to the model, which was rewound if it is the last cut."""
        now.masks.lay_over(self.model)
        if self.recalibrate is not None:
            estimate_norms(self.model, self.recalibrate)
        return replace(now, before=_weights(self.model, now.masks), movement={}) if last else now


def _where(now: Progress) -> str:
    """The position of a training, for messages."""
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
    """A copy of the masked weights."""
    pairs = zip(masks, masks.pairs(model), strict=True)
    return {name: param.detach().masked_fill(~mask.to(param.device), 0) for name, (param, mask) in pairs}


def _on_devices_of(progress: Progress, weights: Tensors) -> Progress:
    """The same progress, with tensors on the devices of the weights."""
    before, movement = (
        {name: tensor.to(weights[name].device) for name, tensor in part.items()}
        for part in (progress.before, progress.movement)
    )
    return replace(progress, masks=progress.masks.beside(weights), before=before, movement=movement)


def _checked(masks: object, former: Masks, pruner: object) -> Masks:
    """The masks that a pruner returned, after a check that they are a cut of the former ones."""
    if not isinstance(masks, Masks):
        raise BadValue("The pruner does not return masks.", asked=f"{type(masks).__name__} from {_stable_repr(pruner)}")
    shapes = [{name: mask.shape for name, mask in each.items()} for each in (former, masks)]
    if shapes[0] != shapes[1]:
        raise WrongModel(
            "The pruner returns masks of other weights.", asked=_stable_repr(pruner), try_="round.masks, cut"
        )
    masks = Masks({name: masks[name].to(mask.device) for name, mask in former.items()})
    revived = sum(int((mask & ~former[name]).sum()) for name, mask in masks.items())
    if revived:
        raise BadValue("The pruner revives pruned weights.", asked=f"{revived} revived by {_stable_repr(pruner)}")
    return masks


def _check_values(share: float, rounds: int, rewind: object, masks: Masks | None, keep: Filter | None) -> None:
    check_share("share", share)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise BadValue("`rounds` must be 0 or more.", asked=f"rounds={rounds!r}")
    if not (rewind is None or rewind == "init" or isinstance(rewind, Mapping)):
        raise BadValue("Unknown `rewind`.", asked=f"rewind={rewind!r}",
                       there='"init", a state dict, or None')  # fmt: skip
    if masks is not None and not isinstance(masks, Masks):
        raise BadValue("`masks` must be Masks.", asked=type(masks).__name__, try_="Masks(tensors), Masks.of(model)")
    if masks is not None and keep is not None:
        raise BadValue("`masks` and `keep` exclude each other.", asked="masks and keep", try_="one of them")


def _check_calls(train: object, gradients: object, after: object) -> None:
    for name, function in (("train", train), ("gradients", gradients), ("after", after)):
        if not callable(function) and (function is not None or name == "train"):
            raise BadValue(
                f"`{name}` must be a function.", asked=repr(function), try_=f"def {name}({_TAKES[name]}): ..."
            )


_TAKES = {"train": "model, held", "gradients": "model", "after": "number, masks"}


def _check_no_host(model: nn.Module, weights: Iterable[str]) -> None:
    hosts = host_masks(model)
    for name in weights:
        if name in hosts:
            raise BadValue(
                f"{name} is masked by another pruning library, which would not be updated.",
                asked="a mask of torch.nn.utils.prune, torch.ao.pruning or NNCF",
                try_="masks=Masks.full(model) & pruning.hosts.torch_prune.finish(model), which makes its masks "
                     "permanent; or ActivateWhilePruning, where that library prunes",
            )  # fmt: skip


def _check_wants(pruner: object, train_first: bool, gradients: object) -> None:
    check_pruner(pruner)
    wants = wants_of(pruner)
    if unknown := wants - _WANTS:
        raise BadValue(
            "The pruner wants something that rounds do not have.", asked=", ".join(sorted(unknown)), there=str(_WANTS)
        )
    if "gradients" in wants and gradients is None:
        raise BadValue("The pruner wants gradients, and `gradients` is missing.", asked=_stable_repr(pruner),
                       try_="gradients=lambda model: ..., which runs forward and backward on some batches")  # fmt: skip
    if wants & {"movement", "training"} and not train_first:
        raise BadValue("The pruner wants the movement of a training, or measures in one, but cuts before the first.",
                       asked="train_first=False", try_="train_first=True")  # fmt: skip


def _stable_repr(pruner: object) -> str:
    """The repr of a pruner, the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(pruner))


def _rehearse(model: nn.Module, batches: Iterable[Any]) -> None:
    """Recalibrate a copy, so that problems with the batches are reported before anything is trained."""
    check_repeatable(batches)
    if not any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in model.modules()):
        raise NothingPicked(
            "The model does not have a batch norm to recalibrate.", asked="recalibrate=", try_="recalibrate=None"
        )
    try:
        estimate_norms(copied(model), batches)
    except BadValue as error:
        cause = f" {cause_of(error.__cause__)}" if error.__cause__ is not None else ""
        raise BadValue("The batch norms cannot be recalibrated on the batches for `recalibrate`.",
                       asked=f"{first_line(error)}{cause}") from error  # fmt: skip
