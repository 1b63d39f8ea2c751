"""Held: the object passed to the training function, to keep pruned weights at zero while its optimiser steps."""

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

Holding = Callable[..., AbstractContextManager[None]]  # the type of `held`: held(optimizer, also=[ema.module])


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """`with held(optimizer, also=[ema.module]):` keeps the pruned weights of one model at zero, see `Masks.held`.

    `masks` say which weights are unpruned in this training. `movement` is updated in place, see `accumulating`.
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
