"""The ledger of a sweep: one row per test, written by all workers and read by the test of the totals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

WAIT_S = 900.0


@dataclass
class Row:
    """The result of a test for a model: one line of the ledger. Owners are named by class, once per site."""

    name: str
    what: str
    outcome: str = "failed"
    sites: int = 0
    owners: list[str] = field(default_factory=list)
    hard: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    swapped: dict[str, int] = field(default_factory=dict)
    saved: bool = False
    seconds: float = 0.0


def ledger_of(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """The file that all workers of this run append their rows to."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}.jsonl"


@contextmanager
def row_in(ledger: Path, name: str, what: str) -> Iterator[Row]:
    """A row to fill in; it is written down however the test ends."""
    row, start = Row(name, what), time.perf_counter()
    try:
        yield row
    finally:
        row.seconds = round(time.perf_counter() - start, 2)
        with ledger.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def is_partial(request: pytest.FixtureRequest, wanted: set[tuple[str, str]]) -> bool:
    """True if not all tests that write a row are part of this run."""
    items = [item for item in request.session.items if "name" in getattr(getattr(item, "callspec", None), "params", {})]
    return len(items) < len(wanted)


def wait_for(ledger: Path, wanted: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of the ledger, once there is one for every test."""
    end = time.monotonic() + WAIT_S
    while True:
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        rows = {(row["what"], row["name"]): row for row in map(json.loads, lines)}
        if wanted <= set(rows):
            return list(rows.values())
        assert time.monotonic() < end, f"no result for {sorted(wanted - set(rows))[:5]}"
        time.sleep(1.0)
