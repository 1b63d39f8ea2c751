"""Incoming weights: which weights feed the units of an activation call, which are pruned, and with which sign."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pruning.masks.host_masks import host_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import owner_of, weights_of
from surgery.errors import BadValue
from surgery.isolation.meta_copy import read
from surgery.look.site import Site


def unpruned_weights(model: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Name -> boolean tensor, True where the weight is unpruned, for every weight with two axes or more.

    By the masks, if given; else by the masks of a pruning library. Weights without a mask are unpruned, even if they
    are zero: a layer initialised with zeros learns.

    Raises:
        BadValue: `masks` are not boolean tensors by name.
        CannotLook: the model is wrapped or scripted.
        WrongModel: the masks belong to another model.
    """
    known = host_masks(model) if masks is None else _as_masks(masks)
    if isinstance(known, Masks):
        known.pairs(model)
    return {
        name: known[name].detach().to(param.device) != 0 if name in known else torch.ones_like(param, dtype=torch.bool)
        for name, param in weights_of(model).items()
    }


def _as_masks(masks: Mapping[str, Tensor]) -> Masks:
    if not isinstance(masks, Mapping):
        raise BadValue("`masks` must be boolean tensors by name.", asked=type(masks).__name__, try_="Masks.of(model)")
    return masks if isinstance(masks, Masks) else Masks(masks)


def incoming(model: nn.Module, site: Site, unpruned: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights that feed a call: name, and which are unpruned, a row per unit (units, weights of a unit)."""
    for name in _feeding(model, site):
        yield name, _rows(model, name, unpruned[name])


def static_units(model: nn.Module, site: Site, channels: int, unpruned: Mapping[str, Tensor]) -> Tensor:
    """True for each channel of a call that has incoming weights, all of which are pruned."""
    rows = [units for _, units in incoming(model, site, unpruned) if len(units) == channels]
    if not rows:
        return torch.zeros(channels, dtype=torch.bool)
    return ~torch.stack([units.any(1).cpu() for units in rows]).any(0)


def signs_behind_norms(model: nn.Module, sites: Iterable[Site]) -> dict[str, Tensor]:
    """The sign of the norm's scale per unit: name -> (units) of 1, -1 and 0, for every weight that feeds these calls.

    1 without a norm right before the call, or for one without a scale per channel; else the sign of its scale for
    that unit. 0 if the scale is zero, and if a unit feeds calls of both signs. Weights whose number of units differs
    from the channels of the call (behind a concat) are ignored there.
    """
    up: dict[str, Tensor] = {}
    down: dict[str, Tensor] = {}
    weights = weights_of(model)
    for site in sites:
        scale = _scale_of_norm(model, site)
        for name in _feeding(model, site):
            if len(_rows(model, name, weights[name].detach())) == len(scale):
                up[name] = up.get(name, torch.zeros_like(scale, dtype=torch.bool)) | (scale > 0)
                down[name] = down.get(name, torch.zeros_like(scale, dtype=torch.bool)) | (scale < 0)
    return {name: weight.float() - down[name].float() for name, weight in up.items()}


def by_output(model: nn.Module, name: str, values: Tensor) -> Tensor:
    """Values per output unit of a weight, shaped to broadcast against the weight.

    Rows of a weight are output channels and columns the input channels of its group; transposed, the other way round.
    """
    layer, weight = owner_of(model, name)[0], weights_of(model)[name]
    values = values.to(weight.device)
    return _by_column(values, weight) if _is_transposed(layer) else _by_row(values, weight)


def by_input(model: nn.Module, name: str, values: Tensor) -> Tensor:
    """Values per input channel of a weight, shaped to broadcast against the weight."""
    layer, weight = owner_of(model, name)[0], weights_of(model)[name]
    values = values.to(weight.device)
    return _by_row(values, weight) if _is_transposed(layer) else _by_column(values, weight)


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvTransposeNd)


def _by_row(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (weight.dim() - 1))


def _by_column(values: Tensor, weight: Tensor) -> Tensor:
    """The channels of the group that each row belongs to."""
    groups = len(values) // weight.shape[1]
    rows = values.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def _feeding(model: nn.Module, site: Site) -> Iterator[str]:
    """The names of the weights that feed a call."""
    names = {id(param): name for name, param in weights_of(model).items()}
    params = dict(model.named_parameters(remove_duplicate=False))
    for path in site.weights:
        name = names.get(id(params.get(path)))
        if name is not None:
            yield name


def _scale_of_norm(model: nn.Module, site: Site) -> Tensor:
    """The scale of the norm in front of a call (channels); ones without a norm."""
    norm = model.get_submodule(site.norm) if site.norm is not None else None
    scale = read(norm, "weight") if norm is not None else None
    if not isinstance(scale, Tensor) or scale.shape != (site.channels,):
        return torch.ones(site.channels)
    return scale.detach().cpu()


def _rows(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A row per output unit of a weight: transposed convolutions have these on the second axis."""
    layer, own = owner_of(model, name)
    if isinstance(layer, _ConvTransposeNd) and own == "weight":
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)
