"""A small perceptron on CIFAR-10 of 8 x 8 pixels: its images, its weights, and one training of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

import surgery
from benchmarks.plain_loop import train
from recipes.data import Pictures, open_data
from recipes.data.dataset import InMemory

HIDDEN = 256  # units of each of the two hidden layers
MEAN_OF = 4  # pixels on each axis
BATCH = 128


@dataclass(frozen=True)
class Size:
    """Images to train on, to tune the learning rate on and to compare predictions on; epochs; and networks of an arm.

    A seed stands for all networks of an arm.
    """

    name: str
    images: int
    held_out: int
    test_images: int
    epochs: int
    networks: int
    seeds: int


@dataclass(frozen=True)
class Images:
    """Images of mean 0 and variance 1: to train on, to tune the learning rate on, and to compare predictions on."""

    train: Pictures
    held_out: Pictures
    test: Pictures


@cache
def small_images(size: Size) -> Images:
    """The images of a study of this size, always the same."""
    count = size.images + size.held_out
    source = open_data("cifar10", train_num_samples=count, val_num_samples=size.test_images).source
    assert isinstance(source, InMemory)
    train, test = (F.avg_pool2d(part.images.float(), MEAN_OF) for part in (source.train, source.test))
    learnt = train[: size.images]
    mean, deviation = learnt.mean((0, 2, 3), keepdim=True), learnt.std((0, 2, 3), keepdim=True)
    whole = Pictures((train - mean) / deviation, source.train.labels)
    held_out = whole.picked(torch.arange(size.images, count))
    return Images(whole.first(size.images), held_out, Pictures((test - mean) / deviation, source.test.labels))


@dataclass(frozen=True)
class Draw:
    """What is random in a training: the initial weights, the order of the images, and which weight has a bit flipped.

    With `flipped` 0, none has.
    """

    weights: int
    order: int
    flipped: int = 0


@dataclass(frozen=True)
class Function:
    """The activation of the perceptron: a rule that swaps its ReLUs, and the share of its units that are linear."""

    rule: surgery.Rule | None = None
    linear: float = 0.0


def perceptron(function: Function, images: Pictures) -> nn.Sequential:
    """The perceptron with this activation, weights not drawn."""
    inputs, classes = images.images[0].numel(), int(images.labels.max()) + 1
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )  # fmt: skip
    rule = surgery.swap("prelu", start="own", init=0.0) if function.linear else function.rule
    if rule is not None:
        surgery.transform_(model, rule, images.images[:2])
    for module in model:
        if isinstance(module, nn.PReLU) and function.linear:
            module.weight.requires_grad_(False)[: round(function.linear * HIDDEN)] = 1.0
    return model


def trained(
    model: nn.Module,
    images: Pictures,
    draw: Draw,
    rate: float,
    epochs: int,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """A copy of the model, trained by SGD from weights that keep the variance of what its activation returns.

    `after_epoch` is called with the number of the epoch, from 1, and the network, which it may put into eval mode.
    """
    ours = deepcopy(model)
    generator = torch.Generator().manual_seed(draw.weights)
    surgery.initialize(ours, images.images[:2], generator=generator)
    if draw.flipped:
        flip_a_bit(next(ours.parameters()), draw.flipped)

    def ended(epoch: int, loss: float) -> None:
        if after_epoch is not None:
            after_epoch(epoch, ours)
            ours.train()

    train(ours, images, epochs, lr=rate, batch_size=BATCH, seed=draw.order, after_epoch=ended)
    return ours


@torch.no_grad()
def flip_a_bit(weight: nn.Parameter, which: int) -> None:
    """Flip the lowest bit of the weight with this number, float32, in place."""
    weight.view(-1).view(torch.int32)[which] ^= 1


def slope_spread(model: nn.Module, images: Pictures) -> float:
    """How much the slope of an activation varies from image to image: its standard deviation, as a mean over units.

    0 if all units are linear; 0.5 for a ReLU that half of the images activate.
    """
    spreads, x = [], images.images
    for module in model.children():
        y = x.detach().requires_grad_()
        x = module(y)
        if not isinstance(module, nn.Linear | nn.Flatten):
            (slopes,) = torch.autograd.grad(x.sum(), y)
            spreads.append(slopes.std(0).mean())
    return torch.stack(spreads).mean().item()
