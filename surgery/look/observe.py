"""Observe: what activation calls put out, and what enters those that are to be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations.input_stats import Seen
from surgery.dataflow.trace import Heard
from surgery.isolation.leftovers import nothing_left
from surgery.isolation.meta_copy import in_mode, read, twin
from surgery.look.example import Example
from surgery.look.finder import MODES, check_plain, home_of
from surgery.look.listen import hear, listening
from surgery.look.site import Site
from surgery.rng import seeded

Key = tuple[str, str, str, int, int | None, int]  # of a `Site`


@contextmanager
def observing(model: nn.Module, look: Callable[[Key, Tensor], None]) -> Iterator[None]:
    """See what every activation call of your model returns, during the one forward that you run inside.

    `look(key, output)` is called with the `key` of the call's `Site` (see `find_sites`) and with the numbers that the
    network goes on with, detached. They are not a copy: read them at once, the next operation may overwrite them. It
    works in eval and train mode, with and without gradients, and changes nothing: hooks, modes, random numbers and the
    caller's tensors are left as they were, also after an exception. Forwards that other threads run are not shown. Not
    inside a compiled model.

    Raises:
        CannotLook: the model is wrapped or scripted.
    """
    check_plain(model)
    with listening(model, after=lambda heard, output: look(heard.key, output), live=True):
        yield


def seen_at(model: nn.Module, sites: Iterable[Site], sample: Example) -> dict[Site, Seen]:
    """What enters each call, per channel, on the example of the user; without one, what the norm in front lets through.

    Behind a norm the numbers are about normal, with its bias as the mean and its weight as the deviation. Calls that
    have no norm in front, in a model looked at without an example, are seen on random numbers. Calls by the same code,
    which get one module, have seen the same: all that entered any of them. A model on the meta device shows nothing,
    nor does a call that something infinite enters.
    """
    wanted = {site.key: site for site in sites}
    if home_of(model).type == "meta":
        return {}
    behind = {} if sample.given else {key: seen for key, site in wanted.items() if (seen := behind_norm(model, site))}
    found = dict(behind)

    def look(heard: Heard, entered: Tensor) -> None:
        site = wanted.get(heard.key)
        if site is not None and heard.key not in found and entered.numel():
            found[heard.key] = _seen(entered, site.channel_axis)

    for mode in MODES:  # some calls are made in training only
        if all(key in found or mode not in site.modes for key, site in wanted.items()):
            continue
        with seeded(), nothing_left(model) as noted:
            _show(twin(model, meta=False), sample.on(home_of(model)), mode, look, noted)
    runs: dict[tuple[object, ...], list[Seen]] = {}
    for key, seen in found.items():
        runs.setdefault(key[:-1], []).append(seen)
    pooled = {place: Seen.pooled(parts) for place, parts in runs.items()}
    return {wanted[key]: pooled[key[:-1]] for key in found if pooled[key[:-1]].finite}


def _show(
    solid: nn.Module,
    sample: Example,
    mode: str,
    look: Callable[[Heard, Tensor], None],
    noted: AbstractContextManager[Any],
) -> None:
    hear(in_mode(solid, mode), sample.args, sample.kwargs, look, noted=noted)


def _seen(entered: Tensor, axis: int) -> Seen:
    """What entered a call; under `torch.vmap` the numbers of the whole batch, in tensors such as the call is given."""
    whole, dims = entered, entered.dim()
    while torch._C._functorch.is_batchedtensor(whole):
        batch = torch._C._functorch.maybe_get_bdim(whole)
        whole = torch._C._functorch.get_unwrapped(whole).movedim(batch, 0)
    if whole is entered:
        return Seen.of(entered, axis)
    rows = whole.flatten() if dims < 2 else whole.movedim(axis % dims - dims, -1).flatten(0, -2)
    return replace(Seen.of(rows, 1), dims=dims, axis=axis)


def behind_norm(model: nn.Module, site: Site) -> Seen | None:
    """What the norm in front of a call lets through, None if there is none that scales."""
    norm = model.get_submodule(site.norm) if site.norm is not None else None
    weight, bias = (read(norm, name) if norm is not None else None for name in ("weight", "bias"))
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.shape != (site.channels,):
        return None
    mean, deviation = bias.detach().float(), weight.detach().float().abs()
    low, high = mean - 4 * deviation, mean + 4 * deviation
    return Seen(mean, deviation, low, high, len(site.shape), site.channel_axis)
