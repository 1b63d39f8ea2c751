"""Results: the rows of a study by arm and seed, and questions to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.studies.jobs import Row
from benchmarks.studies.spread import Difference, difference

Question = Callable[[Sequence[Row]], float]  # to the rows of a job


class AnyArm(Protocol):
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
    arms: Mapping[str, AnyArm]

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

    def of(self, arm: str, question: Question) -> dict[int, float]:
        """The answers of an arm, by seed."""
        return {seed: question(rows) for seed, rows in self.rows[arm].items()}

    def compared(self, arm: str, question: Question) -> Difference | None:
        """The answers of an arm against those of its control; None if that was not done, or there is none."""
        control = self.arms[arm].control
        return difference(self.of(arm, question), self.of(control, question)) if control in self else None

    def differences(self, question: Question) -> dict[str, Difference]:
        """The same for every arm that has a control, under the names of both."""
        found = {f"{arm} - {self.arms[arm].control}": self.compared(arm, question) for arm in self}
        return {names: one for names, one in found.items() if one is not None}


def at(place: int, name: str) -> Question:
    """What is the figure `name` of row `place`, negative from the end?"""
    return lambda rows: rows[place].figures[name]
