"""Measure: run batches through a model, and record the outputs of its activation calls or the inputs of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning.dead.tally import Tally, check_numbers, taking_down, together
from pruning.masks.prunable import owner_of, weights_of
from surgery.dataflow.flow import tensors_in
from surgery.errors import BadValue, CannotLook, NothingPicked, UnknownName, nearest
from surgery.look.example import Example, mapped
from surgery.look.finder import find_sites
from surgery.look.observe import Key, observing
from surgery.look.site import Site
from surgery.model import check_plain, home_of, in_eval
from surgery.processes import gathered_or_raised, processes
from surgery.repair.batches import batch_errors, batches_of

Role = Literal["nonlinearity", "gate", "head", "weight", "unknown"]

_FEW = 2  # samples for finding the calls


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The tally of each call that was made, the names of those that were not, and the number of samples."""

    seen: tuple[tuple[Site, Tally], ...]
    unreached: tuple[str, ...]
    samples: int

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

    They are found with another number of samples than the batch has: what is as long as the samples are there, and on
    the batch too (see `taking_down`), is their axis. A model that runs on the whole batch only does not tell; there,
    rows of single numbers alone are taken for samples.

    Raises:
        CannotLook: the model does not run on the batch.
        NothingPicked: there are none.
    """
    count = _FEW if samples != _FEW else _FEW + 1
    try:
        found, told = find_sites(model, _first(batch, samples, count)), True
    except CannotLook:
        found, count, told = find_sites(model, batch), samples, False
    sites = {site.key: site for site in found if site.role == role and mode in site.modes}
    if not sites:
        raise NothingPicked(
            f"{type(model).__name__} has no activation calls to measure.", asked=f"role={role!r}, in {mode} mode",
            there=", ".join(sorted({f"{site.role} ({'+'.join(site.modes)})" for site in found})) or "no calls",
        )  # fmt: skip
    leading = {key for key, site in sites.items() if site.shape[:1] == (count,) and (told or len(site.shape) == 1)}
    return sites, leading


def _first(batch: Example, samples: int, count: int) -> Example:
    """The batch with `count` rows: the first ones, repeated from the start if it has fewer."""

    def few(one: Tensor) -> Tensor:
        if not samples or one.dim() == 0 or len(one) != samples:
            return one
        return one.detach()[torch.arange(count, device=one.device) % samples]

    return Example(mapped(batch.args, few), mapped(batch.kwargs, few))


def measure(model: nn.Module, batches: Iterable[Any], threshold: float, role: Role) -> Measured:
    """Run the batches in eval mode and record the outputs of every activation call of a role.

    Raises:
        CannotLook, NothingPicked, BadValue: see `dead_neurons`.
    """
    sites: dict[Key, Site] = {}
    tallies: dict[Key, Tally] = {}
    leading: set[Key] = set()
    samples = 0

    def watched(images: Tensor) -> AbstractContextManager[None]:
        nonlocal leading, samples
        if not sites:
            found, leading = sites_of(model, Example((images,), {}), len(images), role, "eval")
            sites.update(found)
        samples += len(images)
        return observing(model, taking_down(tallies, sites, leading, len(images), threshold))

    failure: Exception | None = None
    try:
        _run(model, batches, watched)
    except Exception as error:  # passed to the other processes, and raised again
        failure = error
    return Measured.of(sites.values(), tallies, samples, failure)


def mean_inputs(model: nn.Module, batches: Iterable[Any], names: Iterable[str]) -> dict[str, Tensor]:
    """The mean inputs of the layers with these weights: name -> (input channels), over samples and positions.

    For convolutions and linear layers; a grouped convolution has all its input channels here. Weights of other layers,
    and of layers that are never called, are left out. Eval mode; the model is unchanged afterwards. With
    torch.distributed, every process must call this, and each gets the means over the batches of all.

    Raises:
        UnknownName: the model does not have such a weight.
        CannotLook, BadValue: as for `dead_neurons`.
    """
    check_plain(model)
    known, names = weights_of(model), list(names)
    for name in names:
        if name not in known:
            raise UnknownName(f"{type(model).__name__} does not have a weight {name}.", try_=nearest(name, known))
    sums: dict[str, tuple[Tensor, int]] = {}

    def hearing(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hear(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            total, count = _summed(layer, args[0] if args else kwargs["input"])
            before, earlier = sums.get(name, (torch.zeros_like(total), 0))
            sums[name] = before + total, earlier + count

        return hear

    handles = []
    failure: Exception | None = None
    try:
        for name in names:
            layer, own = owner_of(model, name)
            if own == "weight" and isinstance(layer, _ConvNd | nn.Linear):
                handles.append(layer.register_forward_pre_hook(hearing(name), with_kwargs=True))
        _run(model, batches)
    except Exception as error:  # passed to the other processes, and raised again
        failure = error
    finally:
        for handle in handles:
            handle.remove()
    return _means(model, names, sums, failure)


def _summed(layer: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The sum of an input over all axes but the channels, and the number of values per channel."""
    axis = x.dim() - 1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)
    rows = x.detach().movedim(axis, 0).reshape(x.shape[axis], -1)
    return rows.sum(1, dtype=torch.float64), rows.shape[1]


def _means(
    model: nn.Module, names: Iterable[str], sums: dict[str, tuple[Tensor, int]], failure: Exception | None
) -> dict[str, Tensor]:
    told = [sums]
    if processes() > 1:
        told = gathered_or_raised({name: (total.cpu(), count) for name, (total, count) in sums.items()}, failure)
    if failure is not None:
        raise failure
    means = {}
    for name in names:
        parts = [part[name] for part in told if name in part and part[name][1]]
        if parts:
            total = torch.stack([one.to(home_of(model)) for one, _ in parts]).sum(0)
            means[name] = (total / sum(count for _, count in parts)).float()
    return means


def _run(
    model: nn.Module, batches: Iterable[Any], watched: Callable[[Tensor], AbstractContextManager[None]] | None = None
) -> None:
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
                watching = watched(batch.images) if watched is not None else nullcontext()
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
