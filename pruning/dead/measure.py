"""Measure: run batches through a model, and record the outputs of its activation calls and the inputs of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning.dead.tally import Tally, check_numbers, tallying, together
from pruning.masks.prunable import owner_of
from surgery.dataflow.flow import tensors_in
from surgery.errors import BadValue, CannotLook, NothingPicked
from surgery.look.example import Example, mapped
from surgery.look.finder import find_sites
from surgery.look.observe import Key, observing
from surgery.look.site import Site
from surgery.model import home_of, in_eval
from surgery.processes import gathered_or_raised, processes
from surgery.repair.batches import batch_errors, batches_of

Role = Literal["nonlinearity", "gate", "head", "weight", "unknown"]

Sums = dict[str, tuple[Tensor, int]]  # of a layer's input per channel, and the number of values in each

_FEW = 2  # samples for finding the calls


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The tally of each call that was made, the names of those that were not, and the number of samples.

    `inputs` are the mean inputs of the requested layers, by the name of their weight: a tensor (input
    channels), over samples and positions; a grouped convolution has all its input channels here. Layers that were never
    called are left out, and so are those that are neither convolutions nor linear.
    """

    seen: tuple[tuple[Site, Tally], ...]
    unreached: tuple[str, ...]
    samples: int
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sites: Iterable[Site], tallies: dict[Key, Tally], samples: int, failure: Exception | None = None
    ) -> Measured:
        """The measurements of all processes together; all must call this, even one that failed."""
        found = tuple(sites)
        try:
            check_numbers(found, tallies)
        except BadValue as error:
            failure = failure or error
        whole, total = together(found, tallies, samples, failure)
        seen = tuple((site, whole[site.key]) for site in found if site.key in whole)
        return cls(seen, tuple(str(site) for site in found if site.key not in whole), total)


def check_settings(threshold: float, role: Role) -> None:
    """Check the threshold and the role.

    Raises:
        BadValue: one of them is invalid.
    """
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold):
        raise BadValue("`threshold` must be a finite number.", asked=f"threshold={threshold!r}", try_="0.0")
    if role not in get_args(Role):
        raise BadValue("Unknown role.", asked=f"role={role!r}", there=", ".join(get_args(Role)))


def sites_of(model: nn.Module, batch: Example, samples: int, role: Role, mode: str) -> tuple[dict[Key, Site], set[Key]]:
    """The activation calls of a role and a mode, by their keys; and which have the samples on their first axis.

    To find their axis, the model is run on another number of samples than the batch has: it is the axis whose length
    follows, there and on the batch (see `tallying`). If the model only runs on the whole batch, the axis is unknown,
    and only outputs with a single axis count as one number per sample.

    Raises:
        CannotLook: the model does not run on the batch.
        NothingPicked: there are none.
    """
    count = _FEW if samples != _FEW else _FEW + 1
    try:
        found, sure = find_sites(model, _first(batch, samples, count)), True
    except CannotLook:
        found, count, sure = find_sites(model, batch), samples, False
    sites = {site.key: site for site in found if site.role == role and mode in site.modes}
    if not sites:
        raise NothingPicked(
            f"{type(model).__name__} has no activation calls to measure.", asked=f"role={role!r}, in {mode} mode",
            there=", ".join(sorted({f"{site.role} ({'+'.join(site.modes)})" for site in found})) or "no calls",
        )  # fmt: skip
    leading = {key for key, site in sites.items() if site.shape[:1] == (count,) and (sure or len(site.shape) == 1)}
    return sites, leading


def _first(batch: Example, samples: int, count: int) -> Example:
    """The batch with `count` rows: the first ones, repeated from the start if it has fewer."""

    def few(tensor: Tensor) -> Tensor:
        if not samples or tensor.dim() == 0 or len(tensor) != samples:
            return tensor
        return tensor.detach()[torch.arange(count, device=tensor.device) % samples]

    return Example(mapped(batch.args, few), mapped(batch.kwargs, few))


def measure(
    model: nn.Module, batches: Iterable[Any], threshold: float, role: Role, inputs_of: Iterable[str] = ()
) -> Measured:
    """Run the batches in eval mode, once, and record the outputs of every activation call of a role.

    `inputs_of` names weights whose layers' mean inputs are wanted, too.

    Raises:
        CannotLook, NothingPicked, BadValue: see `dead_neurons`.
    """
    layers = layers_with(model, inputs_of)
    sites: dict[Key, Site] = {}
    tallies: dict[Key, Tally] = {}
    sums: Sums = {}
    leading: set[Key] = set()
    samples = 0

    def watched(images: Tensor) -> AbstractContextManager[None]:
        nonlocal leading, samples
        if not sites:
            found, leading = sites_of(model, Example((images,), {}), len(images), role, "eval")
            sites.update(found)
        samples += len(images)
        look = observing(model, tallying(tallies, sites, leading, len(images), threshold))
        return with_inputs(look, layers, sums)

    failure: Exception | None = None
    try:
        _run(model, batches, watched)
    except Exception as error:  # passed to the other processes, and raised again
        failure = error
    measured = Measured.of(sites.values(), tallies, samples, failure)
    return replace(measured, inputs=means_of(model, layers, sums)) if layers else measured


def layers_with(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The convolutions and linear layers with these weights, by the name of the weight."""
    owners = {name: owner_of(model, name) for name in names}
    return {
        name: layer for name, (layer, own) in owners.items()
        if own == "weight" and isinstance(layer, _ConvNd | nn.Linear)
    }  # fmt: skip


@contextmanager
def with_inputs(looking: AbstractContextManager[None], layers: Mapping[str, nn.Module], sums: Sums) -> Iterator[None]:
    """Look, and add up the inputs of the layers in this thread."""
    thread = get_ident()

    def adding_to(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if get_ident() != thread:
                return
            total, count = _summed(layer, args[0] if args else kwargs["input"])
            before, earlier = sums.get(name, (torch.zeros_like(total), 0))
            sums[name] = before + total, earlier + count

        return add

    with looking, ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(adding_to(name), with_kwargs=True).remove)
        yield


def _summed(layer: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The sum of an input over all axes but the channels, and the number of values per channel."""
    axis = x.dim() - 1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)
    rows = x.detach().movedim(axis, 0).reshape(x.shape[axis], -1)
    return rows.sum(1, dtype=torch.float64), rows.shape[1]


def means_of(model: nn.Module, names: Iterable[str], sums: Sums) -> dict[str, Tensor]:
    """The mean inputs over the batches of all processes; without layers that were never called."""
    parts = [sums]
    if processes() > 1:
        parts = gathered_or_raised({name: (total.cpu(), count) for name, (total, count) in sums.items()})
    means = {}
    for name in names:
        found = [part[name] for part in parts if name in part and part[name][1]]
        if found:
            total = torch.stack([part.to(home_of(model)) for part, _ in found]).sum(0)
            means[name] = (total / sum(count for _, count in found)).float()
    return means


def _run(model: nn.Module, batches: Iterable[Any], watched: Callable[[Tensor], AbstractContextManager[None]]) -> None:
    """Run each batch through the model in eval mode, `watched`; the model is unchanged afterwards."""
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        there = f"a tensor {tuple(batches.shape)}" if isinstance(batches, Tensor) else type(batches).__name__
        raise BadValue("These are not several batches.", asked=there, try_="[images], or a DataLoader")
    if home_of(model).type == "meta":
        raise BadValue(f"{type(model).__name__} has no values: it is on the meta device.", try_="a model with weights")
    with in_eval(model), buffers_kept(model):
        for count, batch in enumerate(batches_of(_with_numbers(batches), model), 1):
            if not batch.images.numel():
                raise BadValue(f"Batch {count} is empty.", asked=str(tuple(batch.images.shape)))
            try:
                watching = watched(batch.images)
            except CannotLook:
                _forward(model, batch.images, count)  # the error names the batch, if that is the cause
                raise
            with watching:
                _forward(model, batch.images, count)


def _with_numbers(batches: Iterable[Any]) -> Iterator[Any]:
    """Iterate over the batches, and check that none is on the meta device."""
    for count, batch in enumerate(batches, 1):
        if any(value.is_meta for value in tensors_in(batch)):
            raise BadValue(f"Batch {count} has no values: it is on the meta device.", try_="images with values")
        yield batch


def _forward(model: nn.Module, images: Tensor, count: int) -> None:
    with batch_errors(count, model, images):
        model(images.clone())  # the model may overwrite them


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model afterwards, which a forward may change even in eval mode."""
    before = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    try:
        yield
    finally:
        for buffer, version, value in before:
            if buffer._version != version:
                buffer.copy_(value)
