"""Files: a reader sees the old or the new one, even if writing is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.files import put_in_place, write_half, write_text, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    write_text(path, "new: ü")
    assert path.read_text(encoding="utf-8") == "new: ü"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail(half: Path) -> None:
        half.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_is_written_is_not_there_until_it_is_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    half = write_half(path, lambda half: half.write_text("new"))
    assert half != path and half.parent == path.parent and not path.exists()
    put_in_place(path)
    assert path.read_text() == "new" and not half.exists()
