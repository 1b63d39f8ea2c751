"""Results: the rows of a study by arm and seed, and questions to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.studies.jobs import Row
from benchmarks.studies.spread import Difference, difference

Figure = Callable[[Sequence[Row]], float]  # one number of the rows of a job


class Arm(Protocol):
    """What every arm says of itself: what is done in it, whether from fresh weights, and what it is compared with."""

    @property
    def about(self) -> str: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def control(self) -> str:
        """Another arm; "" for one that is a control itself."""
        ...


@dataclass(frozen=True)
class Results:
    """What is done of a study: for every arm, in the order of the study, the rows of every seed."""

    rows: Mapping[str, Mapping[int, Sequence[Row]]]
    arms: Mapping[str, Arm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __contains__(self, arm: object) -> bool:
        return arm in self.rows

    def seeds(self, arm: str) -> int:
        """With how many seeds an arm was done."""
        return len(self.rows[arm])

    def all(self) -> Iterator[Row]:
        """Every row."""
        return (row for seeds in self.rows.values() for rows in seeds.values() for row in rows)

    def starts(self) -> set[bool]:
        """Whether arms begin with fresh weights."""
        return {self.arms[arm].fresh for arm in self}

    def of(self, arm: str, figure: Figure) -> dict[int, float]:
        """A figure of an arm, by seed."""
        return {seed: figure(rows) for seed, rows in self.rows[arm].items()}

    def compared(self, arm: str, figure: Figure) -> Difference | None:
        """A figure of an arm against that of its control; None if there is none."""
        control = self.arms[arm].control
        return difference(self.of(arm, figure), self.of(control, figure)) if control in self else None


def at(place: int, name: str) -> Figure:
    """The figure `name` of row `place`, negative from the end."""
    return lambda rows: rows[place].figures[name]
