"""Processes: how many take part in a training, which of them writes, and how they exchange objects."""

from __future__ import annotations

from typing import Any

from torch import distributed

from surgery.errors import BadValue, first_line


def processes() -> int:
    """How many processes torch.distributed runs together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def gathered(mine: Any) -> list[Any]:
    """An object from each process, in order of rank."""
    found: list[Any] = [mine] * processes()
    if len(found) > 1:
        distributed.all_gather_object(found, mine)
    return found


def gathered_or_raised(mine: Any, failure: Exception | None = None, doing: str = "measure") -> list[Any]:
    """An object from each process, in order of rank; all must call this, even one that failed.

    Raises:
        Exception: the failure of this process; in the other processes BadValue.
    """
    reports = gathered((None if failure is None else first_line(failure), mine))
    if failure is not None:
        raise failure
    for number, (problem, _) in enumerate(reports):
        if problem is not None:
            raise BadValue(f"Process {number} could not {doing}.", asked=problem)
    return [value for _, value in reports]
