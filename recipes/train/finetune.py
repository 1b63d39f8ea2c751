"""Finetune: the training loop, and the accuracy on the test images."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from pruning.masks.hold_in_training import Held, Holding
from pruning.rounds.rewind import digest_of, put_into, tensors_of
from recipes.check.preflight import check_options
from recipes.data import Feed
from recipes.format.settings import Finetune
from recipes.train.checkpoint import Checkpoint, Moment, Parts, check_together
from recipes.train.loss import gathering, mixes, share_from_first
from recipes.train.setup import Training, training_of
from surgery.errors import BadValue, SurgeryError
from surgery.history.history import steps_of
from surgery.model import in_eval
from surgery.processes import gathered, processes
from surgery.schedule.progress import finish, move

_READ = 10  # steps between two reads of the loss, each of which waits for the device


class Journal(Protocol):
    """The observer of a training: see `recipes.log.journal`."""

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        """A training begins or resumes."""

    def step(self, loss: float | None, images: int) -> None:
        """A step was made on so many images."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over."""


def finetune(
    model: nn.Module,
    feed: Feed,
    options: Finetune,
    *,
    test: Iterable[tuple[Tensor, Tensor]] | None = None,
    teacher: nn.Module | None = None,
    held: Holding | None = None,
    settle: bool = True,
    seed: int = 0,
    folder: Path | None = None,
    reuse: bool = False,
    journal: Journal | None = None,
    phase: str = "fit",
    every: int = 0,
) -> None:
    """Train `model` in place on a feed of batches, and leave it in eval mode; with `options.model_ema`, the average.

    Gradual changes (fades, warm-ups, alternating slopes) go from progress 0 to 1 in this training and are settled at
    its end, unless `settle` is False. `held` keeps pruned weights at zero, as passed by `pruning.run_rounds`.
    `teacher` is the network to learn from with `options.distill`. The `journal` receives the loss and, after every
    epoch, the accuracy on `test`. The random generators of the process are set from `seed`. With torch.distributed,
    all processes call this together, each with its own feed; they end with equal weights.

    In `folder`, the state of the training is saved after every epoch and every `every` steps. The same call resumes
    from there, even in another process; after the end it restores the final state at once. The same call means: same
    weights, options, seed, `phase`, teacher and number of processes; of the feed only the number of batches counts.
    On the CPU, in one process, with a feed that depends only on epoch and batch, a training that was killed and resumed
    is bit-identical to an uninterrupted one. `reuse` replaces the checkpoint of another training instead of raising.
    A pruner that wants the movement of a training gets only that of the last process: use no folder then.

    Raises:
        BadValue: an empty feed, or options that are incompatible with each other or with this device.
        SurgeryError: the loss or a weight is no longer finite. The last checkpoint is kept.
        WrongModel: the folder contains another training.
        BadFile: the folder is damaged.
    """
    _check(feed, options, teacher)
    start = _start(model, feed, options, teacher, held is not None, settle, seed, phase)
    kept = Checkpoint(Path(folder), gathered(start)[0], reuse) if folder is not None else None
    saved = kept.load() if kept is not None else None
    if kept is not None:
        check_together(saved)
    if saved is not None and saved.moment.done:
        _end(model, None, settle, saved.moment)
        saved.restore(Parts(model))
        return
    steps = steps_of_epoch(feed, options)
    if options.epochs:
        sample = next(feed.epoch(0))[0] if mixes(options) else None
        training = training_of(model, options, steps, sample, teacher)
        with held(training.optimizer, also=training.averages) if held is not None else nullcontext():
            now = training.begin(saved, seed)
            if journal is not None:
                journal.begin(phase, options.epochs, steps, epoch=now.epoch, step=now.update - now.epoch * steps)
            for epoch in range(now.epoch, options.epochs):
                now = _epoch(training, feed, now, journal, kept, every)
                _close(training, now, journal, test, held)
                now = replace(now, epoch=epoch + 1, batch=0, loss=0.0)
                if kept is not None and now.epoch < options.epochs:
                    _save(kept, training.parts, now)
        _end(model, training.average, settle, now)
        _check_weights(model, now)
    else:
        _end(model, None, settle, now := Moment(progress=1.0))
    if kept is not None:
        kept.save(Parts(model), replace(now, progress=1.0, done=True))


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The accuracy (0 to 1) of `model` on images in eval mode.

    Modes and random state are restored afterwards, even after an exception.

    Raises:
        BadValue: no images.
    """
    right, count = torch.zeros((), dtype=torch.long), 0
    with in_eval(model):
        for images, labels in batches:
            right = (model(images).argmax(dim=1) == labels).sum() + right.to(labels.device)
            count += len(labels)
    if not count:
        raise BadValue("No images to classify.")
    return int(right) / count


def _epoch(
    training: Training, feed: Feed, now: Moment, journal: Journal | None, kept: Checkpoint | None, every: int
) -> Moment:
    """The remaining steps of an epoch."""
    batches, size = feed.epoch(now.epoch, now.batch), training.options.grad_accum_steps
    unread: list[Tensor] = []
    while now.batch < feed.steps:
        count = min(size, feed.steps - now.batch)
        loss, images = training.step(batches, count, now.update)
        unread.append(loss)
        now = replace(now, batch=now.batch + count, progress=now.update / training.total, step=now.update,
                      update=now.update + 1)  # fmt: skip
        last = now.batch == feed.steps
        saves = kept is not None and every > 0 and now.update % every == 0 and not last
        read = None
        if saves or last or now.update % _READ == 0:
            losses = _read(unread, now, training.lr)
            now, read = replace(now, loss=_summed(now.loss, losses)), losses[-1]
            unread.clear()
        if journal is not None:
            journal.step(read, images * processes())
        if saves and kept is not None:
            _save(kept, training.parts, now)
    return now


def _close(
    training: Training,
    now: Moment,
    journal: Journal | None,
    test: Iterable[tuple[Tensor, Tensor]] | None,
    held: Holding | None,
) -> None:
    """The end of an epoch: the same norm statistics everywhere, and a line in the journal."""
    from timm.utils import distribute_bn  # type: ignore[attr-defined]

    if processes() > 1:
        for module in (training.model, *training.averages):
            distribute_bn(module, processes(), reduce=True)  # type: ignore[no-untyped-call]
    if journal is None:
        return
    row = {"loss": now.loss * training.options.epochs / training.total, "lr": training.lr}
    if test is not None:
        row["top1"] = accuracy(training.model if training.average is None else training.average, test)
    if isinstance(held, Held):
        row["living"] = held.masks.share
    journal.epoch(row)


def _end(model: nn.Module, average: nn.Module | None, settle: bool, now: Moment) -> None:
    """The final form of the model and of its average, whose weights are the result."""
    for module in (model, *([average] if average is not None else [])):
        early = gathering(module) > 0
        move(module, 1.0, now.update)
        if settle:
            finish(module)
        if early and processes() > 1:
            share_from_first(module)
    if average is not None:
        put_into(model, tensors_of(average))
    model.eval()


def _save(kept: Checkpoint, parts: Parts, now: Moment) -> None:
    _check_weights(parts.model, now)
    kept.save(parts, now)


def _read(unread: list[Tensor], now: Moment, lr: float) -> list[float]:
    """The last losses, the means of all processes.

    Raises:
        SurgeryError: one of them is not finite.
    """
    losses = torch.stack(unread)
    if processes() > 1:
        distributed.all_reduce(losses)
        losses /= processes()
    found: list[float] = losses.tolist()
    for number, loss in enumerate(found, now.update - len(found) + 1):
        if not math.isfinite(loss):
            raise SurgeryError(
                f"The loss of step {number} is {loss}.", asked=f"step {number}, lr {lr:g}", try_=_SMALLER
            )
    return found


_SMALLER = "a lower lr, clip_grad, warmup_epochs; where amp_dtype is float16, bfloat16"


def _summed(start: float, numbers: Iterable[float]) -> float:
    for number in numbers:  # separately, so that the sum does not depend on how many are read at once
        start += number
    return start


def _check_weights(model: nn.Module, now: Moment) -> None:
    """Check that the weights are finite; otherwise a checkpoint would be useless."""
    whole = [value.isfinite().all() for value in model.parameters()]
    if whole and not bool(torch.stack([value.to(whole[0].device) for value in whole]).all()):
        name = next(name for name, param in model.named_parameters() if not bool(param.isfinite().all()))
        raise SurgeryError(f"{name} is not finite after step {now.update}.", try_=_SMALLER)


def steps_of_epoch(feed: Feed, options: Finetune) -> int:
    """The number of steps of the optimiser in an epoch."""
    return -(-feed.steps // options.grad_accum_steps)


def _check(feed: Feed, options: Finetune, teacher: nn.Module | None) -> None:
    if options.epochs and feed.steps < 1:
        raise BadValue("No batches to train on.", asked=f"{feed.steps} batches", try_="a smaller batch_size")
    if options.distill and teacher is None:
        raise BadValue("Distillation needs a teacher.", asked="distill", try_="teacher=, the unchanged network")
    check_options(options)


def _start(
    model: nn.Module, feed: Feed, options: Finetune, teacher: nn.Module | None, held: bool, settle: bool, seed: int,
    phase: str,
) -> dict[str, Any]:  # fmt: skip
    """The inputs of a training, as plain data."""
    network = [str(model), *(str((step.kind, step.data, step.fingerprint)) for step in steps_of(model))]
    plain = re.sub(r" at 0x[0-9a-fA-F]+", "", "\n".join(network))
    return {
        "phase": phase, "seed": seed, "world": processes(), "batches": feed.steps, "options": asdict(options),
        "held": held, "settle": settle, "network": hashlib.sha256(plain.encode()).hexdigest(),
        "weights": digest_of(tensors_of(model)),
        "teacher": digest_of(tensors_of(teacher)) if options.distill and teacher is not None else None,
    }  # fmt: skip
