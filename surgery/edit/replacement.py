"""Replacement: the new module of an edit, and its initial values."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from surgery import activations
from surgery.activations.input_stats import InputStats, set_parameters, start
from surgery.errors import BadValue, CannotEdit
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.layout import Layout, same_code, widths_in_words
from surgery.look.site import Site
from surgery.model import HOOKS, home_of
from surgery.plan.plan import Edit
from surgery.rng import random_state_kept


def new_activation(
    model: nn.Module,
    edit: Edit,
    stats: Mapping[Site, InputStats] | None = None,
    far: dict[Site, float] | None = None,
    sites: Iterable[Site] = (),
) -> nn.Module:
    """The new module of an edit, with the device, mode and dtype of its surroundings.

    The input statistics in `stats` serve to initialise it to match what it replaces; its maximum error is written into
    `far`. All calls among `sites` made by the same code share this module: where they differ in channels, its
    parameters are shared by all channels.

    Raises:
        CannotEdit: the parameters cannot be shared.
    """
    site = edit.site
    calls = same_code(site, sites)
    layout = Layout.of(calls, edit.per_channel)
    if layout.channels is None and dict(edit.params).get("per") == "channel":
        raise CannotEdit(
            f"{site.path} is called at {widths_in_words(calls)} by the same code: no parameters per channel fit all.",
            asked=str(edit), try_="per='layer'",
        )  # fmt: skip
    old = model.get_submodule(site.module) if site.module is not None else None
    made: nn.Module
    if edit.make == "identity":
        made = nn.Identity() if site.inplace else activations.Copy()
    else:
        try:
            made = _built(model, edit, layout, _kept(old, edit), stats or {}, far if far is not None else {})
        except BadValue as error:
            if layout.channels is not None:
                raise
            raise CannotEdit(
                f"{site.path} is called at {widths_in_words(calls)} by the same code, and the parameters of"
                f" {edit.make} cannot be shared. {error}", asked=str(edit), try_="a function without parameters",
            ) from error  # fmt: skip
    if edit.fade:
        before = _kept(old, edit) if edit.start != "affine" else _line(model, site, layout, _kept(old, edit))
        made = activations.Fade(before, made, edit.fade if isinstance(edit.fade, tuple) else (0.0, 1.0))
    owner = model.get_submodule(site.owner)
    dtype = _dtype_at(model, owner, site)
    made.to(device=torch.device(site.device))
    if dtype.is_floating_point:
        made.to(dtype=dtype)
    made.train(old.training if old is not None else owner.training)
    frozen = (
        old is not None
        and [p.requires_grad for p in old.parameters()]
        and not any(p.requires_grad for p in old.parameters())
    )
    return made.requires_grad_(False) if frozen else made


def fits(made: nn.Module, site: Site) -> bool:
    """True if the new module takes the input of the call, and returns a tensor of the same shape."""
    entering = torch.ones(site.shape, dtype=getattr(torch, site.dtype), device=site.device)
    try:
        with torch.no_grad(), random_state_kept():
            returned = scratch_copy(made, meta=False)(entering)
    except Exception:  # whatever a forward may raise
        return False
    return isinstance(returned, torch.Tensor) and returned.shape == entering.shape


def _built(
    model: nn.Module,
    edit: Edit,
    layout: Layout,
    old: nn.Module,
    stats: Mapping[Site, InputStats],
    far: dict[Site, float],
) -> nn.Module:
    """A function of the catalogue to replace `old`, a private copy."""
    site, row = edit.site, activations.row_of(edit.make)
    if edit.make == "affine" and edit.start != "own":
        return _line(model, site, layout, old, **dict(edit.params))
    like = None if any(True for _ in old.parameters()) else old
    made = activations.build(edit.make, layout.channels, axis=layout.axis, like=like, **dict(edit.params))
    if isinstance(made, activations.Affine):
        made.stand_for(old)
    elif site in stats:
        old.to(device="cpu", dtype=torch.float32).eval()
        # In its final precision: bounds and heights are chosen to be exact in it.
        dtype = _dtype_at(model, model.get_submodule(site.owner), site)
        made.to(dtype=dtype if dtype.is_floating_point else None)
        asked = {key: value for key, value in edit.params if key in row.starts}
        own = edit.start == "own" or (bool(asked) and not row.apart) or (bool(row.starts) and not row.fits)
        with suppress(RuntimeError, ValueError):  # a function that cannot take such tensors: the final look reports it
            difference = start(made.eval(), old, stats[site].on("cpu"), own=own, asked=asked)
            far |= {run: difference for run in stats if run.key[:-1] == site.key[:-1]}
    return made


def _line(model: nn.Module, site: Site, layout: Layout, old: nn.Module, **params: Any) -> activations.Affine:
    """The affine stand-in of `old`: the best fit behind a norm, elsewhere the identity until it is fitted."""
    line = activations.build("affine", layout.channels, axis=layout.axis, **params)
    assert isinstance(line, activations.Affine)
    line.stand_for(old)
    if site.norm is not None and home_of(model).type != "meta":
        line.start_behind(model.get_submodule(site.norm), old)
        set_parameters(line, params)
    return line


def _dtype_at(model: nn.Module, owner: nn.Module, site: Site) -> torch.dtype:
    """The dtype of the weights around a call; its input may have been cast on the way."""
    named = dict(model.named_parameters(remove_duplicate=False))
    around = (*(named[path] for path in site.weights[:1] if path in named), *owner.parameters(), *named.values())
    return next((value.dtype for value in around if value.is_floating_point()), getattr(torch, site.dtype))


def same_activation(model: nn.Module, edit: Edit) -> nn.Module:
    """A new module that computes exactly what the call computes now."""
    site = edit.site
    if site.module is not None:
        return copy.deepcopy(model.get_submodule(site.module))
    made = _called_now(site)
    return activations.InPlace(made) if site.inplace else made


def _called_now(site: Site) -> nn.Module:
    """A module that computes the function called at a site without a module."""
    options: dict[str, Any] = dict(site.options)
    return activations.build(site.activation, site.channels, **options)


def _kept(old: nn.Module | None, edit: Edit) -> nn.Module:
    if old is None:
        return _called_now(edit.site)
    kept = copy.deepcopy(old)
    for module in kept.modules():  # hooks move to the replacement
        for name in HOOKS:
            if isinstance(module.__dict__.get(name), dict):
                module.__dict__[name] = OrderedDict()
    if getattr(kept, "inplace", False):
        kept.inplace = False  # type: ignore[assignment]  # its input is needed again, to be faded to
    return kept
