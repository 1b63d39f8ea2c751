"""Layer rates: layers further from the head learn more slowly, and activations as fast as the layer in front."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

import surgery
from recipes.optional import check_torchvision
from surgery.schedule.layer_in_front import layers_in_front

_NO_NAME = "\0"  # of no parameter; what a model's patterns say of it, they say of every name they do not know


def layer_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """The groups of `surgery.parameter_groups`, split by layer: each with its "lr_scale", which timm's schedules heed.

    Layers are those of timm: what a model's `group_matcher` names, else a dozen parameters each, in order. Parameters
    of activations belong to the layer that the matcher puts them in together with others, else to the layer in front
    of them. So what surgery adds leaves the rates of all other parameters as they were.

    Source: Clark et al. 2020, arXiv 2003.10555, appendix; timm's `param_groups_layer_decay`.
    """
    layers = layers_of(model)
    top = max(layers.values(), default=0)
    name_of = {id(param): name for name, param in model.named_parameters()}
    split: dict[tuple[int, int], dict[str, Any]] = {}
    for number, group in enumerate(surgery.parameter_groups(model, weight_decay, biases_and_norms=True)):
        for parameter in group["params"]:
            layer = layers[name_of[id(parameter)]]
            made = split.setdefault((layer, number), {**group, "params": [], "lr_scale": layer_decay ** (top - layer)})
            made["params"].append(parameter)
    return [split[key] for key in sorted(split)]


def layers_of(model: nn.Module) -> dict[str, int]:
    """The number of the layer that each parameter belongs to, by name, counted from the input."""
    check_torchvision()
    from timm.models import group_parameters
    from timm.optim._param_groups import auto_group_layers

    in_front = layers_in_front(model)
    named = [name for name, _ in model.named_parameters()]
    kept = [name for name in named if name not in in_front]
    if not hasattr(model, "group_matcher"):
        layers: dict[str, int] = auto_group_layers(_with_names(model, kept))  # type: ignore[no-untyped-call]
        return layers | {name: layers[layer] for name, layer in in_front.items()}
    matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    layers = group_parameters(_with_names(model, kept), matcher, reverse=True)
    beside = group_parameters(_with_names(model, [*named, _NO_NAME]), matcher, reverse=True)
    peers = {beside[name]: name for name in kept if beside[name] != beside[_NO_NAME]}
    return layers | {name: layers[peers.get(beside[name], layer)] for name, layer in in_front.items()}


def _with_names(model: nn.Module, names: list[str]) -> Any:
    """What timm's grouping looks at in a model, with other names of parameters."""
    settings = getattr(model, "pretrained_cfg", None) or {}
    return SimpleNamespace(named_parameters=lambda: [(name, None) for name in names], pretrained_cfg=settings)
