"""Layer in front: the layer that precedes an activation, for settings that the two share, such as a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from surgery.errors import CannotLook
from surgery.history.history import steps_of
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example
from surgery.model import home_of, in_mode
from surgery.rng import random_state_kept
from surgery.schedule.param_groups import is_activation


def layers_in_front(model: nn.Module, example: Any = None) -> dict[str, str]:
    """Map every parameter of an activation, by name, to the name of a parameter of the layer in front of it.

    That is the last module with direct parameters that a forward enters before it first calls the activation: the
    norm or, without one, the convolution or linear layer. A copy of the model is run, in eval mode. For an activation
    that is never called, or if the model does not run, the order of registration counts.

    `example` is as in `find_sites`; by default that of the last surgery, else that of the model's configuration.
    """
    activations = _outermost_activations(model)
    held = {id(value): path for path, module in activations.items() for value in module.parameters()}
    layers = {path: id(first) for path, module in model.named_modules() if (first := _first(module, held)) is not None}
    entered = _last_entered(model, list(activations), list(layers), example) if activations else {}
    name_of = {id(param): name for name, param in model.named_parameters()}
    last = next((name for key, name in name_of.items() if key not in held), None)
    found: dict[str, str] = {}
    for key, name in name_of.items():
        if key not in held:
            last = name
        elif (layer := entered.get(held[key])) is not None:
            found[name] = name_of[layers[layer]]
        elif last is not None:
            found[name] = last
    return found


def _outermost_activations(model: nn.Module) -> dict[str, nn.Module]:
    """The activations that are not part of another one, by path."""
    found: dict[str, nn.Module] = {}
    inside = set[int]()
    for path, module in model.named_modules():  # a module comes before its parts
        if is_activation(module) and id(module) not in inside:
            found[path] = module
            inside |= {id(part) for part in module.modules()}
    return found


def _first(module: nn.Module, held: dict[int, str]) -> nn.Parameter | None:
    """The first direct parameter of a module, None without one; those of activations do not count."""
    return next((value for value in module._parameters.values() if value is not None and id(value) not in held), None)


def _last_entered(model: nn.Module, activations: list[str], layers: list[str], example: Any) -> dict[str, str]:
    """The layer that a forward enters last before it first calls each activation, both by path."""
    steps = [step.data["example"] for step in steps_of(model) if step.kind == "surgery"]
    given = Example.from_data(steps[-1]) if example is None and steps else example
    # If control flow depends on values, or an operation has no meta kernel, it is run on real tensors.
    for device in dict.fromkeys((torch.device("meta"), home_of(model))):
        try:
            with random_state_kept(), torch.no_grad():
                return _run(model, activations, layers, Example.of(given, model).on(device), device)
        except CannotLook:
            break
        except Exception:  # whatever a forward may raise
            continue
    return {}


def _run(
    model: nn.Module, activations: list[str], layers: list[str], example: Example, device: torch.device
) -> dict[str, str]:
    other = in_mode(scratch_copy(model, meta=device.type == "meta"), "eval")
    found: dict[str, str] = {}
    current: list[str] = []

    def enter(path: str, *_: object) -> None:
        current[:] = [path]

    def call(path: str, *_: object) -> None:
        if current:
            found.setdefault(path, current[0])

    hooks: list[tuple[list[str], Callable[..., None]]] = [(layers, enter), (activations, call)]
    for paths, hook in hooks:
        for path in paths:
            other.get_submodule(path).register_forward_pre_hook(partial(hook, path))
    with device:
        other(*example.args, **example.kwargs)
    return found
