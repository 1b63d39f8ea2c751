"""Layout: how many channels a new activation gets, and on which axis, if the same code calls it on several tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surgery.look.site import Site


@dataclass(frozen=True, slots=True)
class Layout:
    """The number of channels and their axis, counted from the end where it is the last.

    `channels` is None where the calls differ in their number or axis, or where their number depends on the size of the
    example: the function cannot have parameters per channel there.
    """

    channels: int | None
    axis: int

    @classmethod
    def of(cls, sites: Sequence[Site], per_channel: bool = False) -> Layout:
        """The layout that fits all these calls; with `per_channel`, only those on the example."""
        widths = {width for site in sites for width in (site.channels, *site.other_channels)}
        common = set.intersection(*({site.channel_axis, site.channel_axis - len(site.shape)} for site in sites))
        first = sites[0].channel_axis
        last = -1 in common or (not common and first == len(sites[0].shape) - 1)
        axis = -1 if last else first if first in common or not common else max(common)
        single = len(widths) == 1 and common and (per_channel or not any(site.channels_vary for site in sites))
        return cls(widths.pop() if single else None, axis)


def same_code(site: Site, sites: Iterable[Site]) -> tuple[Site, ...]:
    """The calls that share one module with `site`: those made by the same code, including `site`."""
    return tuple(dict.fromkeys((site, *(other for other in sites if other.key[:-1] == site.key[:-1]))))


def widths_in_words(sites: Iterable[Site]) -> str:
    """The numbers of channels of these calls ("4 and 8 channels"), or why they differ."""
    sites = tuple(sites)
    widths = sorted({width for site in sites for width in (site.channels, *site.other_channels)})
    if any(site.channels_vary for site in sites):
        return f"{' and '.join(map(str, widths))} channels here, and other numbers on an example of another size"
    if len(widths) > 1:
        return f"{', '.join(map(str, widths[:-1]))} and {widths[-1]} channels"
    axes = sorted({f"axis {site.channel_axis} of {len(site.shape)}" for site in sites})
    return f"{widths[0]} channels on {' and '.join(axes)}"
