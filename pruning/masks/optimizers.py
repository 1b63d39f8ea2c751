"""Optimizers: find those inside wrappers, whose steps can be followed with hooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from surgery.errors import BadValue


def moved_by(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters of an optimiser."""
    return {id(param) for group in optimizer.param_groups for param in group["params"]}


def optimizers_in(given: Any, at_least: int = 1) -> list[Any]:
    """A list of the given optimisers, one or several; a wrapper with a `step` counts as an optimiser.

    Raises:
        BadValue: there are fewer than `at_least`, or one is not an optimiser, for example a scheduler.
    """
    alone = isinstance(given, Optimizer | str) or not isinstance(given, Iterable)
    listed = [given] if alone else list(given)
    if len(listed) < at_least or not all(_is_or_steps_optimizer(given) for given in listed):
        kinds = ", ".join(type(optimizer).__name__ for optimizer in listed)
        raise BadValue("This is not an optimiser.", asked=f"optimizer={kinds if alone else f'[{kinds}]'}",
                       try_="a torch.optim.Optimizer, a wrapper of one, or a list of them")  # fmt: skip
    return listed


def within(optimizer: Any) -> list[Any]:
    """An optimiser and those it wraps (Lookahead, Accelerate): hooks of a wrapper may never be called."""
    found = [optimizer]
    for outer in found:  # it grows
        parts = [part for attribute in getattr(outer, "__dict__", {}).values() for part in _parts(attribute)]
        found += [part for part in parts if _is_optimizer(part) and not any(part is other for other in found)]
    return found


def stepping_in(optimizer: Any) -> list[Optimizer]:
    """The optimisers inside, or itself, that call hooks around their steps.

    Raises:
        BadValue: there are none, so its steps cannot be observed.
    """
    found = [inner for inner in within(optimizer) if hooks_of(inner) is not None and _calls_hooks(inner)]
    if not found:
        raise BadValue(
            f"The steps of {type(optimizer).__name__} cannot be followed: no optimiser in it calls hooks.",
            asked="an optimiser that never called torch.optim.Optimizer.__init__",
            try_="the torch optimiser that it wraps, or super().__init__(params, defaults) in its class",
        )  # fmt: skip
    return found


def hooks_of(optimizer: Any) -> dict[int, Any] | None:
    """Its step hooks; None if it does not support them."""
    return getattr(optimizer, "_optimizer_step_post_hooks", None)


def _is_or_steps_optimizer(given: Any) -> bool:
    """Whether it is or steps an optimiser; a scheduler also holds one, but does not have `zero_grad`."""
    asked = all(callable(getattr(given, name, None)) for name in ("step", "zero_grad"))
    return asked and any(isinstance(inner, Optimizer) for inner in within(given))


def _calls_hooks(optimizer: Any) -> bool:
    return bool(getattr(type(optimizer).step, "hooked", False))  # set by Optimizer.__init__


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else list(value.values()) if isinstance(value, dict) else [value]


def _is_optimizer(value: Any) -> bool:
    """Whether it is an optimiser, or a wrapper that does not derive from torch's class."""
    if isinstance(value, nn.Module):
        return False
    return isinstance(value, Optimizer) or all(hasattr(type(value), name) for name in ("step", "zero_grad"))
