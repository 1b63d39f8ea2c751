"""Results: the rows of a study by arm and seed, and statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.studies.jobs import Row
from benchmarks.studies.spread import Difference, difference

Question = Callable[[Sequence[Row]], float]  # a statistic of the rows of a job


class AnyArm(Protocol):
    """What all arms have in common: a description, whether they start from random weights, and their control."""

    @property
    def about(self) -> str: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def control(self) -> str:
        """The name of another arm; "" for a control."""
        ...


@dataclass(frozen=True)
class Results:
    """The finished part of a study: the rows of every seed of every arm, in the order of the study."""

    rows: Mapping[str, Mapping[int, Sequence[Row]]]
    arms: Mapping[str, AnyArm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __contains__(self, arm: object) -> bool:
        return arm in self.rows

    def seeds(self, arm: str) -> int:
        """The number of finished seeds of an arm."""
        return len(self.rows[arm])

    def all(self) -> Iterator[Row]:
        """All rows."""
        return (row for seeds in self.rows.values() for rows in seeds.values() for row in rows)

    def starts(self) -> set[bool]:
        """Whether arms start from random weights: the values that occur."""
        return {self.arms[arm].fresh for arm in self}

    def of(self, arm: str, question: Question) -> dict[int, float]:
        """The statistic of an arm, by seed."""
        return {seed: question(rows) for seed, rows in self.rows[arm].items()}

    def compared(self, arm: str, question: Question) -> Difference | None:
        """The difference of an arm to its control; None if there is none, or it is not finished."""
        control = self.arms[arm].control
        return difference(self.of(arm, question), self.of(control, question)) if control in self else None

    def differences(self, question: Question) -> dict[str, Difference]:
        """The differences of all arms that have a control, by the names of both."""
        found = {f"{arm} - {self.arms[arm].control}": self.compared(arm, question) for arm in self}
        return {names: value for names, value in found.items() if value is not None}


def at(place: int, name: str) -> Question:
    """The statistic that reads the figure `name` of row `place`, negative from the end."""
    return lambda rows: rows[place].figures[name]
