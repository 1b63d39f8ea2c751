"""Processes: alone nobody is asked; together each hears all, and the failure of one is the failure of all."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import distributed, multiprocessing

from surgery.errors import BadValue
from surgery.processes import gathered, gathered_or_raised, is_first, processes, rank


def test_alone() -> None:
    assert (processes(), rank(), is_first()) == (1, 0, True)
    assert gathered("a") == gathered_or_raised("a") == ["a"]
    with pytest.raises(OSError, match="disk"):
        gathered_or_raised("a", OSError("disk"))


def _take_part(number: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    assert (processes(), rank(), is_first()) == (2, number, number == 0)
    assert gathered(number) == gathered_or_raised(number) == [0, 1]
    failure = OSError("disk full") if number == 1 else None
    try:
        gathered_or_raised(number, failure, "write")
    except (OSError, BadValue) as error:
        Path(folder, str(number)).write_text(f"{type(error).__name__} {' '.join(str(error).split())}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_together(tmp_path: Path) -> None:
    multiprocessing.spawn(_take_part, (str(tmp_path),), nprocs=2)
    assert (tmp_path / "1").read_text() == "OSError disk full"
    assert (tmp_path / "0").read_text() == "BadValue Process 1 could not write. got: OSError: disk full"
