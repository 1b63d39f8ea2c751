"""Meta copy: a copy of a model to experiment on, on the meta device or with copied weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from surgery.errors import CannotLook
from surgery.isolation.own_hooks import OwnHooks
from surgery.model import HISTORY, HOOKS, M
from surgery.rng import random_state_kept


def scratch_copy(model: M, *, meta: bool, history: bool = False) -> M:
    """A copy of `model` to run and change freely, on the meta device or with copies of the weights.

    Parameters keep their ties and their `requires_grad`. Hooks of the user are dropped; hooks that compute weights
    (pruning, weight norm) or that the model itself has set are copied. With `history` the copy's edits can be undone.

    Raises:
        CannotLook: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    alive: list[Any] = []  # `deepcopy` identifies objects by id: keep them alive meanwhile
    for module in model.modules():
        for value in _tensors(module):
            if nn.parameter.is_lazy(value):
                raise CannotLook(
                    "The model has parameters that take their shape from the first batch.",
                    try_="run it once on a real batch first",
                )
            if id(value) not in memo:
                memo[id(value)] = _meta(value) if meta else _cloned(value)
        for name in HOOKS:
            hooks = module.__dict__.get(name)
            if isinstance(hooks, dict):
                memo[id(hooks)] = OrderedDict((k, copy.copy(h)) for k, h in list(hooks.items()) if computes_weights(h))
        steps = module.__dict__.get(HISTORY)
        if steps is not None and not history:
            memo[id(steps)] = None
        alive.append(module)
    try:
        _copy_whole(model, memo)
        return _with_own_hooks(copy.deepcopy(model, memo), model, memo)
    except (RuntimeError, TypeError, AttributeError, copy.Error) as error:
        raise CannotLook(
            f"{type(model).__name__} cannot be copied, so it cannot be looked at without side effects.",
            asked=f"{type(error).__name__}: {error}",
            try_="remove what copy.deepcopy refuses (a file, a lock, a generator) from the model",
        ) from error


def copied(model: M) -> M:
    """A deep copy, also of weights that hooks compute (pruning, weight norm), which copy.deepcopy refuses."""
    computed = [value for module in model.modules() for value in _tensors(module) if not value.is_leaf]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed}
    _copy_whole(model, memo)
    return _with_own_hooks(copy.deepcopy(model, memo), model, memo)


def _copy_whole(model: nn.Module, memo: dict[int, Any]) -> None:
    """Copy modules into `memo` whose `__deepcopy__` is partial: a graph per mode keeps only the children it calls."""
    for module in model.modules():
        if isinstance(module, fx.GraphModule) and isinstance(module.__dict__.get("train_graph"), fx.Graph):
            made: fx.GraphModule = type(module).__new__(type(module))
            memo[id(module)] = made
            made.__dict__.update(copy.deepcopy(module.__dict__, memo))
            made.graph = made.__dict__["_graph"]


def _with_own_hooks(copied: M, model: nn.Module, memo: dict[int, Any]) -> M:
    _another(copied, model)
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        OwnHooks(model).carry_over(memo)
    return copied


def _another(copied: M, model: nn.Module) -> M:
    """The copy, after a check that it is one: the `__deepcopy__` of a module may return the module itself."""
    own, theirs = {id(module) for module in model.modules()}, dict(copied.named_modules())
    shared = next((path or "the model itself" for path, module in theirs.items() if id(module) in own), None)
    if shared is not None:
        raise CannotLook(
            f"{type(model).__name__} cannot be copied: {shared} returns itself as its copy.",
            try_="remove its __deepcopy__",
        )
    for path, module in model.named_modules():  # a __deepcopy__ may construct a new object, in training mode
        if path in theirs and theirs[path].training != module.training:
            theirs[path].train(module.training)
    return copied


def read(module: nn.Module, name: str) -> Any:
    """The attribute of a module as in eval mode; None if it is absent.

    Reading a parametrised weight may change state (the power iteration of `spectral_norm` does), so it is read from a
    copy.
    """
    if not is_parametrized(module, name):
        return getattr(module, name, None)
    computing = copy.deepcopy(module.parametrizations[name]).eval()  # type: ignore[index, union-attr]
    with random_state_kept(), torch.no_grad():
        return computing()


def shallow(module: nn.Module) -> nn.Module:
    """Another module object with the same class, children, parameters and buffers."""
    made: nn.Module = module.__class__.__new__(module.__class__)
    made.__dict__.update(module.__dict__)
    for key, value in module.__dict__.items():
        if isinstance(value, dict | OrderedDict):
            made.__dict__[key] = copy.copy(value)
    if isinstance(made, fx.GraphModule):
        made.recompile()  # forward is a method of its class, and each GraphModule has its own class
    return made


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for value in module.__dict__.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from (part for part in value.values() if isinstance(part, Tensor))
        elif isinstance(value, list | tuple):
            yield from (part for part in value if isinstance(part, Tensor))


def _meta(value: Tensor) -> Tensor:
    empty = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else empty


def _cloned(value: Tensor) -> Tensor:
    # Not the weights themselves: a forward may write into them.
    clone = value.detach().clone()
    return nn.Parameter(clone, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else clone


def computes_weights(hook: object) -> bool:
    """True for torch's hooks that compute a weight (a mask, a norm), without which a module does not run."""
    return any(kind.__module__.startswith("torch.nn.utils") for kind in type(hook).__mro__)
