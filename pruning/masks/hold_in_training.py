"""Held: what a training gets, to keep pruned weights at zero while its optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.masks.masks import Masks
from pruning.masks.optimizers import optimizers_in
from pruning.rounds.movement import accumulating

Holding = Callable[..., AbstractContextManager[None]]  # what is called like it: held(optimizer, also=[ema.module])


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """`with held(optimizer, also=[ema.module]):` keeps the pruned weights of one model at zero, see `Masks.held`.

    `masks` say which weights live in this training. `movement` gathers, in place, what `accumulating` does.
    """

    model: nn.Module
    masks: Masks
    movement: dict[str, Tensor] | None = None

    def __call__(
        self, optimizer: Optimizer | Iterable[Optimizer] = (), also: Iterable[nn.Module] = ()
    ) -> AbstractContextManager[None]:
        """Inside, pruned weights are zero after every step. `Raises:` as `Masks.held`."""
        return self._held(optimizers_in(optimizer), also)

    @contextmanager
    def _held(self, optimizers: list[Any], also: Iterable[nn.Module]) -> Iterator[None]:
        weights = {name: param for name, (param, _) in zip(self.masks, self.masks.pairs(self.model), strict=True)}
        watched = nullcontext() if self.movement is None else accumulating(weights, optimizers, self.movement)
        with watched, self.masks.held(self.model, optimizers, also):
            yield
