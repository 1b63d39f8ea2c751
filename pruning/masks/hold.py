"""Hold: keep pruned weights at zero while an optimiser steps, even one inside wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.masks.optimizers import hooks_of, moved_by, stepping_in, within
from surgery.errors import BadValue

Pairs = Sequence[tuple[nn.Parameter, Tensor]]


@contextmanager
def hold(weights: Pairs, optimizers: Sequence[Any], copies: Pairs = ()) -> Iterator[None]:
    """Inside, each weight is zero where its mask is False after every step of the optimisers.

    Weights, copies and the optimiser state of pruned weights are cleared on entry and on exit. A step costs one
    multiplication of the weights, in one call for all of them. Wrappers are handled through the optimisers inside.

    Raises:
        BadValue: none of the optimisers has any of the weights, or the steps of one cannot be followed.
    """
    inner = list({id(part): part for optimizer in optimizers for part in within(optimizer)}.values())
    stepping = [part for optimizer in optimizers for part in stepping_in(optimizer)]
    moved = {key for part in stepping for key in moved_by(part)}
    if optimizers and not any(id(param) in moved for param, _ in weights):
        raise BadValue(
            "The optimiser has none of the masked weights.", asked=f"{len(moved)} other parameters",
            try_="an optimiser made from model.parameters(), after surgery and structural pruning",
        )  # fmt: skip
    _clear([*weights, *copies])
    _forget(weights, inner)
    handles = [part.register_step_post_hook(_Keeper(part, weights)) for part in inner if hooks_of(part) is not None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        _clear([*weights, *copies])  # the weights, too: a value that is not finite times zero is not zero
        _forget(weights, inner)


def is_held(optimizer: Any) -> bool:
    """Whether an optimiser is currently inside a `hold`."""
    return any(isinstance(hook, _Keeper) for part in within(optimizer) for hook in (hooks_of(part) or {}).values())


class _Keeper:
    """The hook after each step of an optimiser, which masks the weights of that optimiser."""

    def __init__(self, optimizer: Optimizer, weights: Pairs) -> None:
        self.weights = weights
        self.swaps = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
        self.moved = moved_by(optimizer)
        self.batches = _batched(weights, self.moved)

    def __call__(self, optimizer: Optimizer, *_: Any) -> None:
        moved = moved_by(optimizer)
        if moved != self.moved:  # parameters were added, such as unfrozen layers
            self.moved, self.batches = moved, _batched(self.weights, moved)
        _multiply(self.batches)
        if self.swaps:  # like schedule-free ones, whose `optimizer.eval()` restores other copies of the weights
            _forget(self.weights, [optimizer])


@torch.no_grad()
def _clear(pairs: Pairs) -> None:
    for param, mask in pairs:
        param.masked_fill_(~mask.to(param.device), 0)


@torch.no_grad()
def _forget(weights: Pairs, optimizers: Iterable[Any]) -> None:
    """Clear the optimiser state of pruned weights: momentum, moments, slow copies."""
    for optimizer in optimizers:
        states = getattr(optimizer, "state", None)
        states = states if isinstance(states, Mapping) else {}
        for param, mask in weights:
            for kept in states.get(param, {}).values():
                if isinstance(kept, Tensor) and kept.shape == param.shape:
                    kept.masked_fill_(~mask.to(kept.device), 0)


def _batched(weights: Pairs, moved: set[int]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The weights in `moved`, with their masks as factors: one pair of lists per device and dtype."""
    batches: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for param, mask in weights:
        if id(param) in moved:
            params, factors = batches.setdefault((param.device, param.dtype), ([], []))
            params.append(param)
            factors.append(
                torch.empty_like(param).copy_(mask)
            )  # with the strides of the weight, so that one kernel handles all of them
    return list(batches.values())


@torch.no_grad()
def _multiply(batches: Iterable[tuple[list[Tensor], list[Tensor]]]) -> None:
    for weights, factors in batches:
        torch._foreach_mul_(weights, factors)
