"""Incoming: which weights lead to the units of an activation call, and whether they live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pruning.masks import Masks, host_mask
from pruning.prunable import owner_of, weights_of
from surgery.sites import Site


def living_weights(model: nn.Module, masks: Masks | None) -> dict[str, Tensor]:
    """Name -> boolean tensor, True where the weight lives, of every weight with two axes or more.

    By the masks, where given; what they do not name lives. Else by the masks of a host; else what is not zero lives.

    Raises:
        CannotLook: the model is wrapped or scripted.
        WrongModel: the masks are of another model.
    """
    if masks is not None:
        masks.pairs(model)
    living = {}
    for name, param in weights_of(model).items():
        if masks is not None:
            mask = masks[name] if name in masks else torch.ones_like(param, dtype=torch.bool)
        else:
            host = host_mask(model, name)
            mask = (param if host is None else host).detach() != 0
        living[name] = mask.to(param.device)
    return living


def incoming(model: nn.Module, site: Site, living: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights that feed a call: name, and which live, a row per unit (units, weights of a unit)."""
    names = {id(param): name for name, param in weights_of(model).items()}
    params = dict(model.named_parameters(remove_duplicate=False))
    for path in site.weights:
        name = names.get(id(params.get(path)))
        if name is not None:
            yield name, _rows(model, name, living[name])


def static_units(model: nn.Module, site: Site, channels: int, living: Mapping[str, Tensor]) -> Tensor:
    """True for each of the channels of a call that has incoming weights, none of which lives."""
    rows = [units for _, units in incoming(model, site, living) if len(units) == channels]
    if not rows:
        return torch.zeros(channels, dtype=torch.bool)
    return ~torch.stack([units.any(1).cpu() for units in rows]).any(0)


def _rows(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A row for each unit that a weight has an output for: transposed convolutions have theirs on the second axis."""
    layer, own = owner_of(model, name)
    if isinstance(layer, _ConvTransposeNd) and own == "weight":
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)
