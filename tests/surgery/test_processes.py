"""Processes: a single one does not communicate; several exchange everything, and one failure fails all."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import BadValue
from surgery.processes import gathered, gathered_or_raised, is_first, processes, rank
from tests.processes import in_two


def test_alone() -> None:
    assert (processes(), rank(), is_first()) == (1, 0, True)
    assert gathered("a") == gathered_or_raised("a") == ["a"]
    with pytest.raises(OSError, match="disk"):
        gathered_or_raised("a", OSError("disk"))


def take_part(number: int, folder: Path) -> None:
    assert (processes(), rank(), is_first()) == (2, number, number == 0)
    assert gathered(number) == gathered_or_raised(number) == [0, 1]
    failure = OSError("disk full") if number == 1 else None
    try:
        gathered_or_raised(number, failure, "write")
    except (OSError, BadValue) as error:
        (folder / str(number)).write_text(f"{type(error).__name__} {' '.join(str(error).split())}")


def test_two_together(tmp_path: Path) -> None:
    in_two(take_part, tmp_path)
    assert (tmp_path / "1").read_text() == "OSError disk full"
    assert (tmp_path / "0").read_text() == "BadValue Process 1 could not write. got: OSError: disk full"
