"""Site values: a number for each call or block that a drawing shows as a bar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from surgery.errors import BadValue, UnknownName, nearest
from surgery.look.site import Site


@runtime_checkable
class Measures(Protocol):
    """What was measured at the calls or the blocks of a network: dead neurons, a front, a latency table."""

    def site_values(self) -> tuple[str, Mapping[str, float]]:
        """What the numbers are, with their unit, and a number for each call or block by its name."""
        ...


Given = Mapping[Site, float] | Mapping[str, float] | Measures


@dataclass(frozen=True, slots=True)
class SiteValues:
    """Numbers by the names of calls and blocks, and what they are."""

    name: str
    numbers: Mapping[str, float]

    @classmethod
    def of(cls, given: Given, name: str, known: Iterable[str]) -> SiteValues:
        """The numbers of a mapping, which are called `name`, or of something that measured them.

        Raises:
            BadValue: this is neither, or a number is not finite.
            UnknownName: a number is for something that is not `known`.
        """
        if not isinstance(given, Measures | Mapping):
            raise BadValue("These are not values of sites.", asked=type(given).__name__, try_="a dict: site -> number")
        name, numbers = (name, given) if isinstance(given, Mapping) else given.site_values()
        named = {str(site): number for site, number in numbers.items()}
        names = set(known)
        for site, number in named.items():
            if site not in names:
                raise UnknownName(f"{name}: there is no site or block {site!r}.", try_=nearest(site, names))
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise BadValue(f"{name}: the value of {site} is not a finite number.", asked=repr(number))
        return cls(name, {site: float(number) for site, number in named.items()})

    def share(self, name: str) -> float | None:
        """The value of a call or a block as a fraction of the largest, in [0, 1]; None without one."""
        if name not in self.numbers:
            return None
        most = max(self.numbers.values())
        return max(self.numbers[name], 0.0) / most if most > 0 else 0.0

    def text(self, name: str) -> str:
        """The value of a call or a block, "" without one."""
        return f"{self.numbers[name]:.4g}" if name in self.numbers else ""
