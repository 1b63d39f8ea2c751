"""Layer rates: learning rates decay with the distance from the head; activations have that of the layer in front."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

import surgery
from recipes.optional import check_torchvision
from surgery.schedule.layer_in_front import layers_in_front

_NO_NAME = "\0"  # not the name of a parameter: a model's patterns put it where they put every unknown name


def layer_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """The groups of `surgery.parameter_groups`, split by layer, each with the "lr_scale" that timm's schedules use.

    Layers are those of timm: from the model's `group_matcher`, else a dozen consecutive parameters each. Parameters of
    activations belong to the layer in which the matcher puts them together with others, else to the layer in front of
    them; so surgery does not change the rates of any other parameter.

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
    """The index of the layer of each parameter, by name, counted from the input."""
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
    matched = group_parameters(_with_names(model, [*named, _NO_NAME]), matcher, reverse=True)
    peers = {matched[name]: name for name in kept if matched[name] != matched[_NO_NAME]}
    return layers | {name: layers[peers.get(matched[name], layer)] for name, layer in in_front.items()}


def _with_names(model: nn.Module, names: list[str]) -> Any:
    """A stand-in with the attributes that timm's grouping reads from a model, with these parameter names."""
    settings = getattr(model, "pretrained_cfg", None) or {}
    return SimpleNamespace(named_parameters=lambda: [(name, None) for name in names], pretrained_cfg=settings)
