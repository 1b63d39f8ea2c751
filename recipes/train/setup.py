"""Setup: everything that takes part in the steps of one training, built from timm's parts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import surgery
from recipes.format.settings import Finetune
from recipes.optional import check_torchvision
from recipes.train.checkpoint import Moment, Parts, Saved
from recipes.train.layer_rates import layer_groups
from recipes.train.loss import Mixing, body_of, distribute, gathering, mixing_of, share_from_first, task_of, unsynced
from surgery.errors import BadValue
from surgery.model import in_eval
from surgery.processes import processes, rank
from surgery.schedule.progress import move


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Everything that takes part in the steps of a training. `body` is the module that runs, see `body_of`."""

    model: nn.Module
    body: nn.Module
    task: nn.Module
    options: Finetune
    optimizer: Optimizer
    schedule: Any
    scaler: Any
    ema: Any
    mixing: Mixing | None
    total: int

    @property
    def average(self) -> nn.Module | None:
        return self.ema.module if self.ema is not None else None

    @property
    def averages(self) -> list[nn.Module]:
        return [self.ema.module] if self.ema is not None else []

    @property
    def parts(self) -> Parts:
        return Parts(self.model, self.average, self.optimizer, self.scaler)

    @property
    def lr(self) -> float:
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def progress(self, progress: float, step: int) -> None:
        """Set the progress on all copies. Parameters computed from data are taken from the first process."""
        before = gathering(self.body)
        copies = [self.body, *([self.model] if self.body is not self.model else []), *self.averages]
        for copied in copies:
            move(copied, progress, step)
        if processes() > 1 and gathering(self.body) != before:
            for module in (self.model, *self.averages):
                share_from_first(module)

    def begin(self, saved: Saved | None, seed: int) -> Moment:
        """Initialise everything: at the start of the training, or from a checkpoint."""
        moment = Moment()
        if saved is None:
            mixed = (seed + rank()) % 2**32
            torch.manual_seed(mixed)
            numpy.random.seed(mixed)
            random.seed(mixed)
        else:
            moment = saved.moment
            self.progress(moment.progress, moment.step)  # before the weights, some of which it may replace
            saved.restore(self.parts)
        return moment

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], count: int, update: int) -> tuple[Tensor, int]:
        """Make an optimiser step on `count` batches; return their mean loss and their number of images."""
        options, optimizer, scaler = self.options, self.optimizer, self.scaler
        self.progress(update / self.total, update)
        self.schedule.step_update(update)
        losses, seen = [], 0
        for number in range(count):
            batch = next(batches, None)
            if batch is None:
                raise BadValue("The feed ended before its epoch.", asked=f"{number} batches", there=f"{count} expected")
            images, labels = batch
            seen += len(images)
            if options.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            if self.mixing is not None:
                images, labels = self.mixing(images, labels)
            with unsynced(self.task) if number + 1 < count else nullcontext():
                with torch.autocast(images.device.type, getattr(torch, options.amp_dtype), enabled=options.amp):
                    loss = self.task(images, labels)["loss"] / count
                (loss if scaler is None else scaler.scale(loss)).backward()
            losses.append(loss.detach())
        self._move(optimizer, scaler)
        if self.ema is not None:
            self.ema.update(self.model, step=update + 1)
        return torch.stack(losses).sum(), seen

    def _move(self, optimizer: Optimizer, scaler: Any) -> None:
        """Clip the gradients, step, clear the gradients."""
        from timm.utils import dispatch_clip_grad  # type: ignore[attr-defined]

        if self.options.clip_grad is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            dispatch_clip_grad(self.model.parameters(), self.options.clip_grad)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)


def training_of(
    model: nn.Module, options: Finetune, steps: int, images: Tensor | None, teacher: nn.Module | None
) -> Training:
    """Set up a training in the order that torch requires: layout, average, optimiser, compilation, distribution.

    `steps` are those of an epoch; `images` a batch to count the classes on, where labels are mixed.
    """
    from timm.utils import ModelEmaV3  # type: ignore[attr-defined]

    device = next(model.parameters()).device
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    move(model, 0.0, 0)
    ema = None
    if options.model_ema:
        ema = ModelEmaV3(model, decay=options.model_ema_decay, use_warmup=options.model_ema_warmup)
    optimizer = optimizer_of(model, options)
    body = body_of(model, options)
    teacher = deepcopy(teacher).eval().requires_grad_(False) if teacher is not None else None  # it may be the caller's
    mixing = mixing_of(options, _classes(model, images)) if images is not None else None
    model.train()
    body.train()
    task = task_of(body, options, teacher)
    distribute(task, body)
    halves = options.amp and options.amp_dtype == "float16"
    scaler = torch.amp.GradScaler(device.type) if halves else None
    schedule = schedule_of(optimizer, options, steps)
    return Training(model, body, task, options, optimizer, schedule, scaler, ema, mixing, total=options.epochs * steps)


def optimizer_of(model: nn.Module, options: Finetune) -> Optimizer:
    """timm's optimiser for these options; activations, biases and norms are not decayed."""
    check_torchvision()
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    groups: Any = partial(surgery.parameter_groups, weight_decay=options.weight_decay, biases_and_norms=True)
    if options.layer_decay is not None:
        groups = partial(layer_groups, weight_decay=options.weight_decay, layer_decay=options.layer_decay)
    still = options.opt == "sgd" and options.momentum == 0  # timm's sgd is Nesterov's, which needs momentum
    made: Optimizer = create_optimizer_v2(
        model, opt="momentum" if still else options.opt, lr=options.lr, weight_decay=options.weight_decay,
        momentum=options.momentum, param_group_fn=groups,
    )  # fmt: skip
    return made


def schedule_of(optimizer: Optimizer, options: Finetune, steps: int) -> Any:
    """timm's learning rate schedule, a function of the number of steps made; an epoch has `steps`."""
    check_torchvision()
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    same = options.sched == "none"  # timm's "none" has neither a warm-up nor factors per layer
    schedule, _ = create_scheduler_v2(
        optimizer, sched="step" if same else options.sched, num_epochs=options.epochs,
        decay_epochs=1.0 if same else options.decay_epochs, decay_rate=1.0 if same else options.decay_rate,
        min_lr=options.min_lr, warmup_lr=options.warmup_lr, warmup_epochs=options.warmup_epochs,
        step_on_epochs=False, updates_per_epoch=steps,
    )  # fmt: skip
    return schedule


def _classes(model: nn.Module, images: Tensor) -> int:
    """The number of classes of the model."""
    with in_eval(model):
        return int(model(images[:1]).shape[1])
