"""Movement: accumulate weight times gradient while an optimiser steps, and gradients on some batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.masks.hold import Pairs
from pruning.masks.masks import Masks
from pruning.masks.optimizers import moved_by, stepping_in, within
from surgery.errors import BadValue, SurgeryError, cause_of
from surgery.repair.batches import FAILURES
from surgery.rng import random_state_kept


@contextmanager
def accumulating(
    weights: Mapping[str, nn.Parameter], optimizers: Iterable[Any], into: dict[str, Tensor]
) -> Iterator[None]:
    """Inside, weight times gradient is subtracted from `into[name]` before every step of the optimisers, in place.

    Names missing in `into` start at zero, in single precision at least; so it can accumulate over several entries. The
    gradients are those that the optimiser uses: after clipping, and unscaled in mixed precision. A weight without a
    gradient adds nothing, nor does a step that a scaler skips. For an optimiser that computes gradients itself, in a
    closure, those from before the closure are used.

    Raises:
        BadValue: a tensor in `into` has another shape than its weight, or none of the optimisers has some weight.
            Nothing has changed.
    Source: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning", section 4.
    """
    # A wrapper around optimisers (timm's Lookahead) steps the innermost ones; only these are observed.
    every = {id(part): part for optimizer in optimizers for part in stepping_in(optimizer)}
    inner = [part for part in every.values() if len(within(part)) == 1]
    for name, weight in weights.items():
        if name in into and into[name].shape != weight.shape:
            raise BadValue(f"The movement of {name} belongs to another weight.", asked=f"{tuple(into[name].shape)}",
                           there=f"{tuple(weight.shape)}")  # fmt: skip
    stepped = {key for part in inner for key in moved_by(part)}
    still = [name for name, weight in weights.items() if id(weight) not in stepped]
    if still and len(still) == len(weights):
        raise BadValue("The optimiser has none of the weights.", asked=f"{len(stepped)} other parameters",
                       try_="an optimiser made from model.parameters()")  # fmt: skip
    if still:
        raise BadValue(
            f"No optimiser has {still[0]}, so it does not move.", asked=f"{len(still)} such weights",
            try_="an optimiser made from model.parameters(), or keep=... without it",
        )  # fmt: skip
    for name, weight in weights.items():
        if name not in into:
            dtype = torch.promote_types(weight.dtype, torch.float32)
            into[name] = torch.zeros_like(weight, dtype=dtype, requires_grad=False)
    pairs = [(weight, into[name]) for name, weight in weights.items()]
    handles = [part.register_step_pre_hook(lambda optimizer, *_: _gather(optimizer, pairs)) for part in inner]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _gather(optimizer: Optimizer, pairs: Pairs) -> None:
    moved = moved_by(optimizer)  # read again, since parameters may have been added
    batches: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for weight, total in pairs:
        if weight.grad is not None and id(weight) in moved:
            batches.setdefault((weight.device, weight.dtype), []).append((weight, weight.grad, total))
    # A scaler passes these two to a fused optimiser: its gradients are still scaled, and may be infinite.
    scale, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    for batch in batches.values():
        weights, gradients, totals = (list(column) for column in zip(*batch, strict=True))
        if scale is None and overflow is None and weights[0].dtype == totals[0].dtype:
            torch._foreach_addcmul_(totals, weights, gradients, value=-1)
            continue
        wide = [gradient.to(total.dtype) for gradient, total in zip(gradients, totals, strict=True)]
        products = list(torch._foreach_mul(wide, weights))
        if scale is not None:
            torch._foreach_div_(products, scale.to(products[0].device))
        if overflow is not None:
            skipped = overflow.to(products[0].device) > 0
            products = [product.masked_fill(skipped, 0) for product in products]
        torch._foreach_sub_(totals, products)


def _called(gradients: Callable[[nn.Module], object], model: nn.Module) -> None:
    try:
        gradients(model)
    except SurgeryError:
        raise
    except FAILURES as error:
        raise BadValue(f"`gradients` fails on {type(model).__name__}.", asked=cause_of(error),
                       try_="forward and backward of this model, on batches that it accepts") from error  # fmt: skip


def gathered(model: nn.Module, masks: Masks, gradients: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """The gradients that the caller's function leaves on the masked weights; the model is otherwise unchanged.

    Raises:
        BadValue: a weight gets no gradient, which would make it worthless; or the function fails on the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    model.zero_grad(set_to_none=True)
    try:
        with random_state_kept(alone=False), torch.enable_grad():
            _called(gradients, model)
        left = {name: param.grad for name, (param, _) in zip(masks, masks.pairs(model), strict=True)}
        found = {name: gradient.detach().clone() for name, gradient in left.items() if gradient is not None}
        if not found:
            raise BadValue("`gradients` leaves no gradient on prunable weights.", try_="loss.backward() inside it")
        for name in left:
            if name not in found:
                raise BadValue(f"{name} has no gradient (frozen?).", asked=f"{len(left) - len(found)} such weights",
                               try_="keep=... without it")  # fmt: skip
        return found
    finally:
        model.zero_grad(set_to_none=True)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
