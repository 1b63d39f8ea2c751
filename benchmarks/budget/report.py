"""Report: the networks of a study as rows, and the rows as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.conditions import markdown_table


@dataclass(frozen=True)
class Row:
    """One network: what was done to it, its time beside the unedited one, and its accuracy."""

    network: str
    edits: str
    milliseconds: float
    speedup: float
    accuracy: float
    lost: float
    error: float
    kl: float
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What a study found: its rows as data and as a table, and lines of text above and below the table."""

    about: str
    rows: Sequence[Any]
    table: Sequence[str]
    below: Sequence[str] = field(default=())


def in_numbers(actions: Sequence[Any]) -> str:
    """How many actions of each kind: "2 drop, 1 affine"."""
    kinds = dict.fromkeys(action.what for action in actions)
    return ", ".join(f"{sum(action.what == kind for action in actions)} {kind}" for kind in kinds)


def in_words(actions: Sequence[Any]) -> str:
    return ", ".join(map(str, actions)) or "-"


def accuracy_table(rows: Sequence[Row]) -> list[str]:
    """Time, accuracy and divergence of each network."""
    head = ("network", "ms", "speed-up", "top-1", "lost", "KL")
    cells = [
        (row.network, f"{row.milliseconds:.2f}", f"{row.speedup:.2f}", f"{100 * row.accuracy:.2f}",
         f"{row.lost:.2f} ({row.error:.2f})", f"{row.kl:.4f}")
        for row in rows
    ]  # fmt: skip
    return markdown_table(head, cells)


def edits_of(rows: Sequence[Row]) -> list[str]:
    """What was done to each network."""
    return [f"- {row.network}: {row.edits}" for row in rows if row.edits != "-"]
