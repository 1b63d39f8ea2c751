"""Follow: an optimiser goes on with the smaller parameters of a model, and remembers what it knew about them."""

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
    """The optimisers, and those they wrap, which can follow a structural step of the model; there may be none.

    Raises:
        BadValue: one moves nothing of this model, or keeps something about a weight that is neither one number nor of
            the shape of the weight (as Adafactor does), so that nobody can say what of it survives; or one is inside
            `held`, whose masks are of the old shapes.
    """
    listed = optimizers_in(given, at_least=0)
    ours = {id(param): name for name, param in model.named_parameters()}
    for one in listed:
        if not any(ours.keys() & moved_by(inner) for inner in stepping_in(one)):
            raise BadValue(
                "The optimiser moves no parameter of this model.", there=type(one).__name__,
                try_="the optimiser that was made from model.parameters()",
            )  # fmt: skip
    inside = (inner for one in listed for inner in within(one) if isinstance(inner, Optimizer))
    found = list({id(one): one for one in inside}.values())
    for one in found:
        if is_held(one):
            raise BadValue(
                "The optimiser is inside `held`, whose masks fit the model as it is now.", there=type(one).__name__,
                try_="leave `held` first, then step, then hold anew",
            )  # fmt: skip
        for param, state in one.state.items():
            for key, kept in state.items() if id(param) in ours else ():
                if isinstance(kept, Tensor) and kept.numel() != 1 and kept.shape != param.shape:
                    raise BadValue(
                        f"What {type(one).__name__} keeps about {ours[id(param)]} cannot be cut with it.",
                        there=f"{key} {tuple(kept.shape)} for a weight {tuple(param.shape)}",
                        try_="no optimiser here, and a new one afterwards",
                    )  # fmt: skip
    return found


def follow(
    optimizers: Sequence[Optimizer], model: nn.Module, before: Mapping[str, nn.Parameter], survivors: Survivors
) -> None:
    """Let optimisers move the parameters that a model has now, in place of those it had `before`.

    Groups, their order and options stay, and so do hooks and whoever holds the optimiser (schedulers). What it keeps
    per entry (momentum, moments) is cut as the parameter was; single numbers stay.
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
    # Laid out in memory as the parameter is: fused steps ask for that.
    return torch.empty_like(new, dtype=kept.dtype, device=kept.device).copy_(survivors.of(name, kept)).detach()
