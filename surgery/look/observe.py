"""Observe: the outputs of activation calls, and input statistics of those to be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations.input_stats import InputStats
from surgery.dataflow.trace import CallRecord
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import read, scratch_copy
from surgery.look.example import Example
from surgery.look.listen import listening, trace_forward
from surgery.look.site import Site
from surgery.model import MODES, check_plain, home_of, in_mode
from surgery.rng import seeded

Key = tuple[str, str, str, int, int | None, int]  # of a `Site`


@contextmanager
def observing(model: nn.Module, look: Callable[[Key, Tensor], None]) -> Iterator[None]:
    """Observe the output of every activation call of a model, during the one forward that you run inside.

    `look(key, output)` is called with the `key` of the call's `Site` (see `find_sites`) and with its output, detached.
    The output is not a copy: read it at once, since the next operation may overwrite it. Works in eval and train mode,
    with and without gradients, and changes nothing: hooks, modes, random state and the caller's tensors are left as
    they were, also after an exception. Forwards in other threads are not observed. Not inside a compiled model.

    Raises:
        CannotLook: the model is wrapped or scripted.
    """
    check_plain(model)
    with listening(model, after=lambda record, output: look(record.key, output), live=True):
        yield


def seen_at(model: nn.Module, sites: Iterable[Site], sample: Example) -> dict[Site, InputStats]:
    """Input statistics of each call per channel, on the user's example; without one, from the norm in front.

    Behind a norm the input is roughly normal; the norm's bias is its mean, the weight its standard deviation. Without
    an example, calls that do not follow a norm are measured on random input. Calls by the same code share one module,
    and hence their pooled statistics. No statistics for a model on the meta device, or for a call with infinite inputs.
    """
    wanted = {site.key: site for site in sites}
    if home_of(model).type == "meta":
        return {}
    behind = {} if sample.given else {key: stats for key, site in wanted.items() if (stats := behind_norm(model, site))}
    found = dict(behind)

    def look(record: CallRecord, entered: Tensor) -> None:
        site = wanted.get(record.key)
        if site is not None and record.key not in found and entered.numel():
            found[record.key] = _stats_of(entered, site.channel_axis)

    for mode in MODES:  # some calls happen in training only
        if all(key in found or mode not in site.modes for key, site in wanted.items()):
            continue
        with seeded(), no_leftovers(model) as tracking:
            _show(scratch_copy(model, meta=False), sample.on(home_of(model)), mode, look, tracking)
    runs: dict[tuple[object, ...], list[InputStats]] = {}
    for key, stats in found.items():
        runs.setdefault(key[:-1], []).append(stats)
    pooled = {place: InputStats.pooled(parts) for place, parts in runs.items()}
    return {wanted[key]: pooled[key[:-1]] for key in found if pooled[key[:-1]].finite}


def _show(
    solid: nn.Module,
    sample: Example,
    mode: str,
    look: Callable[[CallRecord, Tensor], None],
    tracking: AbstractContextManager[Any],
) -> None:
    trace_forward(in_mode(solid, mode), sample.args, sample.kwargs, look, tracking=tracking)


def _stats_of(entered: Tensor, axis: int) -> InputStats:
    """Input statistics of a call; under `torch.vmap` those of the whole batch, in the layout of a single call."""
    whole, dims = entered, entered.dim()
    while torch._C._functorch.is_batchedtensor(whole):
        batch = torch._C._functorch.maybe_get_bdim(whole)
        whole = torch._C._functorch.get_unwrapped(whole).movedim(batch, 0)
    if whole is entered:
        return InputStats.of(entered, axis)
    rows = whole.flatten() if dims < 2 else whole.movedim(axis % dims - dims, -1).flatten(0, -2)
    return replace(InputStats.of(rows, 1), dims=dims, axis=axis)


def behind_norm(model: nn.Module, site: Site) -> InputStats | None:
    """Input statistics implied by the norm in front of a call; None unless it has an affine scale."""
    norm = model.get_submodule(site.norm) if site.norm is not None else None
    weight, bias = (read(norm, name) if norm is not None else None for name in ("weight", "bias"))
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.shape != (site.channels,):
        return None
    mean, deviation = bias.detach().float(), weight.detach().float().abs()
    low, high = mean - 4 * deviation, mean + 4 * deviation
    return InputStats(mean, deviation, low, high, len(site.shape), site.channel_axis)
