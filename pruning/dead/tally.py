"""Tally: the running maximum of the outputs of activation calls, in the memory of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from surgery.errors import BadValue
from surgery.look.observe import Key
from surgery.look.site import Site
from surgery.processes import gathered_or_raised, processes

Tallies = Mapping[Key, "Tally"]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The maximum output of every channel (C) and of every element (the shape of one sample), and two counts.

    `below` counts the outputs at or below the threshold, of `outputs` in total; both stay on the device. `elements` is
    None if the first axis is not the batch (`leads` is False), or if the samples differ in shape. NaN propagates into
    the maximum.
    """

    channels: Tensor
    elements: Tensor | None
    below: Tensor
    outputs: int
    leads: bool = True

    @classmethod
    def of(cls, output: Tensor, axis: int, samples: int, threshold: float, leads: bool) -> Tally:
        """The tally of one call for a batch of `samples`, whose output has its channels on `axis`."""
        if leads and output.dim() == 1:
            output, axis = output.unsqueeze(1), 1  # one value per sample
        elements = _highest(output, 0) if leads and axis > 0 and output.shape[0] == samples else None
        rest, place = (output, axis) if elements is None else (elements, axis - 1)
        rows = rest.movedim(place, 0).flatten(1) if rest.dim() > 1 else rest.reshape(-1, 1)
        channels = _highest(rows, 1)
        return cls(channels, elements, (output <= threshold).sum(), output.numel(), leads)

    def joined(self, other: Tally) -> Tally:
        """The combined tally of both."""
        same = self.elements is not None and other.elements is not None and self.elements.shape == other.elements.shape
        return Tally(
            torch.maximum(self.channels, other.channels),
            torch.maximum(self.elements, other.elements) if same else None,  # type: ignore[arg-type]
            self.below + other.below,
            self.outputs + other.outputs,
            self.leads,
        )


def tallying(
    tallies: dict[Key, Tally], sites: Mapping[Key, Site], leading: set[Key], samples: int, threshold: float
) -> Callable[[Key, Tensor], None]:
    """A `look` for `surgery.observing` that adds the outputs of these sites to the tallies.

    At the `leading` calls the first axis is the batch; calls for which the first batch shows otherwise are removed from
    them.

    Raises:
        BadValue: a site has a different number of channels than in earlier batches.
    """

    def look(key: Key, output: Tensor) -> None:
        site = sites.get(key)
        if site is None or not output.numel():
            return
        known = tallies.get(key)
        if known is None and output.shape[:1] != (samples,):
            leading.discard(key)
        leads = key in leading if known is None else known.leads
        fresh = Tally.of(output, site.channel_axis, samples, threshold, leads)
        if known is not None and known.channels.shape != fresh.channels.shape:
            raise BadValue(
                f"{site} has {len(fresh.channels)} channels on this batch, and had {len(known.channels)} before.",
                try_="batches of one size",
            )  # fmt: skip
        tallies[key] = fresh if known is None else known.joined(fresh)

    return look


def check_numbers(sites: Sequence[Site], tallies: Tallies) -> None:
    """Check that outputs are not NaN, which is neither above nor below the threshold.

    Raises:
        BadValue: naming the first call with such an output.
    """
    for site in sites:
        tally = tallies.get(site.key)
        broken = 0 if tally is None else int(tally.channels.isnan().sum())
        if tally is not None and broken:
            raise BadValue(
                f"{site} outputs NaN.", asked=f"NaN in {broken} of its {len(tally.channels)} channels",
                try_="batches without NaN, and weights from before the training diverged",
            )  # fmt: skip


def together(
    sites: Sequence[Site], tallies: Tallies, samples: int, failure: Exception | None = None
) -> tuple[Tallies, int]:
    """The combined tallies and samples of all processes; each must call this, even after a failure.

    Raises:
        Exception: the failure of this process, whatever it is.
        BadValue: another process failed, or measured another model.
    """
    if processes() == 1:
        if failure is not None:
            raise failure
        return tallies, samples
    mine = {key: (len(tally.channels), None if tally.elements is None else tally.elements.shape, tally.outputs)
            for key, tally in tallies.items()}  # fmt: skip
    keys = [site.key for site in sites]
    reports = gathered_or_raised((keys, mine, samples), failure)
    if any(theirs[0] != keys for theirs in reports):
        raise BadValue("The processes measured different models.", try_="one model in all of them")
    parts = [part for _, part, _ in reports]
    order = [key for key in keys if any(key in part for part in parts)]
    return _reduced(order, tallies, parts), sum(count for *_, count in reports)


def _reduced(order: Sequence[Key], tallies: Tallies, parts: Sequence[dict[Key, Any]]) -> Tallies:
    """Reduce the tallies with one message for all maxima, and one for all counts."""
    if not order:
        return {}
    home = next((tally.channels.device for tally in tallies.values()), torch.device("cpu"))
    blank, shapes = {}, {}
    for key in order:
        seen = [part[key] for part in parts if key in part]
        shape = seen[0][1] if all(sizes[1] == seen[0][1] for sizes in seen) else None
        none = torch.full((seen[0][0],), -torch.inf, device=home)
        high = None if shape is None else torch.full(shape, -torch.inf, device=home)
        blank[key] = Tally(none, high, torch.zeros((), dtype=torch.long, device=home), 0)
        shapes[key] = shape
    filled = {key: tallies.get(key, blank[key]) for key in order}
    filled = {key: tally if shapes[key] is not None else replace(tally, elements=None) for key, tally in filled.items()}
    highest = [part for tally in filled.values() for part in (tally.channels, tally.elements) if part is not None]
    joined = torch.cat([part.double().flatten() for part in highest])
    below = torch.stack([tally.below for tally in filled.values()])
    dist.all_reduce(joined, dist.ReduceOp.MAX)
    dist.all_reduce(below)
    pieces = iter(joined.split([part.numel() for part in highest]))
    whole = {}
    for (key, tally), count in zip(filled.items(), below, strict=True):
        channels = next(pieces)
        elements = None if tally.elements is None else next(pieces).view(tally.elements.shape)
        whole[key] = Tally(channels, elements, count, sum(part[key][2] for part in parts if key in part))
    return whole


def _highest(values: Tensor, axis: int) -> Tensor:
    """The exact maximum along an axis; NaN if one of the values is."""
    high = values.amax(axis)
    return high.to(torch.promote_types(high.dtype, torch.float32))
