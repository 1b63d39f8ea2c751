"""Journal: measurements survive, and are not taken for those of another choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.budget.journal import Journal
from surgery.errors import BadFile


def test_measurements_survive(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.json"
    Journal(path, {"images": 3}).put("damage", "erase a", {"kl": 0.1})
    found = Journal(path, {"images": 3})
    assert found.get("damage", "erase a") == {"kl": 0.1} and found.get("damage", "erase b") is None


def test_without_a_path_it_is_in_memory() -> None:
    journal = Journal(None, {})
    journal.put("damage", "a", 1)
    assert journal.get("damage", "a") == 1 and journal.get("time", "a") is None


def test_another_choice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    Journal(path, {"model": "A", "images": 3}).put("damage", "a", 1)
    with pytest.raises(BadFile, match=r"another choice(?s:.*)images 4(?s:.*)images 3"):
        Journal(path, {"model": "A", "images": 4})


def test_numbers_may_differ_by_rounding(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    Journal(path, {"entropy": 0.5}).put("damage", "a", 1)
    assert Journal(path, {"entropy": 0.5 + 1e-7}).get("damage", "a") == 1
    with pytest.raises(BadFile, match="another choice"):
        Journal(path, {"entropy": 0.51})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "about": {}, "measured": {}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"not the journal|another format"):
        Journal(path, {})
