"""Parameter groups: the parameters of a model for an optimiser, those of activations without weight decay."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from surgery.dataflow.operations import named_after_activation
from surgery.errors import BadValue
from surgery.history.history import resting_weights

_OURS = "surgery.activations"


def parameter_groups(
    model: nn.Module, weight_decay: float | None = None, *, biases_and_norms: bool = False
) -> list[dict[str, Any]]:
    """Group the parameters of a model for an optimiser: those of its activations get no weight decay.

    Weight decay pulls a slope to 0, and so a PReLU back to ReLU, and the heights of a PWLU to zero. The first group
    has all other parameters, with `weight_decay` if it is given, else with the default of the optimiser; the second
    those of activations, with weight decay 0. Empty groups are left out. Every parameter that requires a gradient
    is in exactly one group, and so are weights that are frozen only while slopes learn. timm accepts this function as
    `param_group_fn`; the model may be wrapped (DDP).

    With `biases_and_norms`, biases and all other parameters with one axis or none, and what the model's own
    `no_weight_decay()` lists, go without decay, too, as in timm.

    Raises:
        BadValue: not a model, or the weight decay is negative.

    Source: He et al. 2015, arXiv 1502.01852, section 2.1: no weight decay on slopes.
    """
    if not isinstance(model, nn.Module):
        raise BadValue("Groups are made of the parameters of a model.", asked=type(model).__name__, try_="the model")
    if weight_decay is not None and not 0 <= weight_decay < math.inf:
        raise BadValue(
            "`weight_decay` must not be negative.", asked=f"weight_decay={weight_decay!r}", try_="0 or more, or None"
        )
    free = {id(value) for module in model.modules() if is_activation(module) for value in module.parameters()}
    exempt = _own_exemptions(model) if biases_and_norms else ()
    decayed: list[nn.Parameter] = []
    free_of_decay: list[nn.Parameter] = []
    resting = resting_weights(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and id(parameter) not in resting:
            continue
        small = biases_and_norms and (parameter.dim() <= 1 or name.endswith("bias"))
        spared = id(parameter) in free or small or any(fnmatchcase(name, pattern) for pattern in exempt)
        (free_of_decay if spared else decayed).append(parameter)
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append({"params": decayed} | ({} if weight_decay is None else {"weight_decay": weight_decay}))
    if free_of_decay:
        groups.append({"params": free_of_decay, "weight_decay": 0.0})
    return groups


def is_activation(module: nn.Module) -> bool:
    """True for an activation, and for a module of this library that replaces one (a fade, an affine map)."""
    ours = any(f"{kind.__module__}.".startswith(f"{_OURS}.") for kind in type(module).__mro__)
    return ours or named_after_activation(module)


def _own_exemptions(model: nn.Module) -> tuple[str, ...]:
    """Patterns for the names that the model, or the one inside a wrapper, excludes from weight decay."""
    for path, module in model.named_modules():
        if hasattr(type(module), "no_weight_decay"):
            prefix = f"{path}." if path else ""
            return tuple(prefix + pattern for pattern in module.no_weight_decay())
    return ()
