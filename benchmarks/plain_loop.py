"""The bare PyTorch loop that benchmarks train with, and the accuracy of its results.

It is frozen, because the recorded results were made with it. Recipes train with recipes/train/finetune.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning.masks.hold_in_training import Holding
from recipes.data import Pictures

Augment = Callable[[Tensor, torch.Generator], Tensor]
Prepare = Callable[[Tensor], Tensor]


def train(
    model: nn.Module,
    pictures: Pictures,
    epochs: int,
    *,
    lr: float = 0.05,
    batch_size: int = 64,
    weight_decay: float = 5e-4,
    warmup_share: float = 0.1,
    smoothing: float = 0.0,
    augment: Augment | None = None,
    prepare: Prepare | None = None,
    seed: int = 0,
    held: Holding | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `model` in place on `pictures`, which are on its device, and leave it in eval mode.

    SGD with momentum 0.9; the learning rate rises to `lr` over the first `warmup_share` of the steps and falls to 0 as
    a cosine. `augment` changes a batch of images as they are stored, `prepare` then makes the floats the model
    takes. Order and augmentation depend on `seed` alone. Every batch is full: what is left of an epoch is left out.
    `held` keeps pruned weights zero, as `pruning.run_rounds` passes it. `after_epoch` is called with the epoch, from 1,
    and its mean loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    batches = len(pictures) // batch_size or 1
    steps = epochs * batches
    model.train()
    with held(optimizer) if held else nullcontext():
        for epoch in range(epochs):
            order = torch.randperm(len(pictures), generator=generator).to(pictures.labels.device)
            losses = torch.zeros((), device=pictures.labels.device)
            for batch in range(batches):
                picked = order[batch * batch_size : (batch + 1) * batch_size]
                images = pictures.images[picked]
                images = augment(images, generator) if augment else images
                images = prepare(images) if prepare else images
                for group in optimizer.param_groups:
                    group["lr"] = lr * learning_rate_share(epoch * batches + batch, steps, warmup_share)
                loss = F.cross_entropy(model(images), pictures.labels[picked], label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses += loss.detach()
            if after_epoch:
                after_epoch(epoch + 1, float(losses) / batches)
    model.eval()


def learning_rate_share(step: int, steps: int, warmup_share: float) -> float:
    """The learning rate at `step` as a fraction of its peak: a linear rise, then half a cosine down to 0."""
    warmup = round(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures, *, prepare: Prepare | None = None, batch_size: int = 250) -> float:
    """The accuracy of `model` on `pictures` in eval mode; its mode is restored afterwards."""
    was_training = model.training
    model.eval()
    right = 0
    for images, labels in zip(pictures.images.split(batch_size), pictures.labels.split(batch_size), strict=True):
        logits = model(prepare(images) if prepare else images)
        right += int((logits.argmax(dim=1) == labels).sum())
    model.train(was_training)
    return right / len(pictures)
