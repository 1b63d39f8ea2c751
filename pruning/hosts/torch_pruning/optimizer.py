"""Optimizer: let an optimiser continue with the pruned parameters of a model, and keep its state for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.hosts.torch_pruning.survivors import Survivors
from pruning.masks.hold import is_held
from pruning.masks.optimizers import moved_by, optimizers_in, stepping_in, within
from surgery.errors import BadValue


def optimizers_of(given: Optimizer | Iterable[Optimizer], model: nn.Module) -> list[Optimizer]:
    """The optimisers, and those they wrap, after a check that they can follow a structural step; may be empty.

    Raises:
        BadValue: one has no parameters of this model, or has state for a weight that is neither a scalar nor of the
            shape of the weight (like Adafactor), so that it cannot be pruned; or one is inside `held`, whose masks have
            the old shapes.
    """
    listed = optimizers_in(given, at_least=0)
    ours = {id(param): name for name, param in model.named_parameters()}
    for outer in listed:
        if not any(ours.keys() & moved_by(inner) for inner in stepping_in(outer)):
            raise BadValue(
                "The optimiser does not have parameters of this model.", asked=type(outer).__name__,
                try_="the optimiser that was made from model.parameters()",
            )  # fmt: skip
    inside = (inner for outer in listed for inner in within(outer) if isinstance(inner, Optimizer))
    found = list({id(inner): inner for inner in inside}.values())
    for wrapped in found:
        if is_held(wrapped):
            raise BadValue(
                "The optimiser is inside `held`, whose masks fit the current model only.", asked=type(wrapped).__name__,
                try_="leave `held` first, then step, then enter it again",
            )  # fmt: skip
        for param, state in wrapped.state.items():
            for key, kept in state.items() if id(param) in ours else ():
                if isinstance(kept, Tensor) and kept.numel() != 1 and kept.shape != param.shape:
                    raise BadValue(
                        f"The state of {type(wrapped).__name__} for {ours[id(param)]} cannot be pruned with it.",
                        asked=f"{key} {tuple(kept.shape)} for a weight {tuple(param.shape)}",
                        try_="step without an optimiser, and create a new one afterwards",
                    )  # fmt: skip
    return found


def follow(
    optimizers: Sequence[Optimizer], model: nn.Module, before: Mapping[str, nn.Parameter], survivors: Survivors
) -> None:
    """Replace the parameters of optimisers by those that the model has now.

    Groups, their order and options stay, and so do hooks and references to the optimiser (schedulers). State per entry
    (momentum, moments) is pruned like the parameter; scalars stay.
    """
    now = dict(model.named_parameters())
    moved = {id(before[name]): now[name] for name in survivors}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"][:] = [moved.get(id(param), param) for param in group["params"]]
        for name in survivors:
            old, new = before[name], now[name]
            if old in optimizer.state:
                state: dict[str, Any] = optimizer.state.pop(old)
                cut = {key: _cut(name, kept, old, new, survivors) for key, kept in state.items()}
                optimizer.state[new] = cut


def _cut(name: str, kept: Any, old: nn.Parameter, new: nn.Parameter, survivors: Survivors) -> Any:
    if not isinstance(kept, Tensor) or kept.shape != old.shape:
        return kept
    # In the memory layout of the parameter, which fused steps require.
    return torch.empty_like(new, dtype=kept.dtype, device=kept.device).copy_(survivors.of(name, kept)).detach()
