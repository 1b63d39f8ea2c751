"""Checkpoint files: an index and its files are read back as written, and incomplete ones are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint_files import (
    check_new,
    check_same,
    checked,
    plain,
    read_index,
    read_tensors,
    remove_stale,
    write_digested,
    write_index,
)
from surgery.errors import BadFile, WrongModel
from tests.asserts import assert_bit_equal, assert_raises

PARTS = re.compile(r"(state)-(\d+)\.safetensors(\.tmp)?")


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3).T, "b": torch.arange(3)}
    name, digest = write_digested(tmp_path, "state-1.safetensors", lambda path: save_file(plain(tensors), path))
    write_index(tmp_path / "index.json", {"format": 1, "files": {"state": [name, digest]}})
    assert read_index(tmp_path / "index.json", 1) == {"format": 1, "files": {"state": [name, digest]}}
    read = read_tensors(checked(tmp_path / name, digest, "index.json"))
    assert_bit_equal([read["a"], read["b"]], [tensors["a"], tensors["b"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "state-1.safetensors"]


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    index, part = tmp_path / "index.json", tmp_path / "state-1.safetensors"
    _, digest = write_digested(tmp_path, part.name, lambda path: Path(path).write_bytes(b"some bytes"))
    assert_raises(BadFile, lambda: read_tensors(part), part.name)
    assert_raises(BadFile, lambda: checked(part, "0" * 64, "index.json"), "damaged")
    assert_raises(BadFile, lambda: checked(tmp_path / "gone", digest, "index.json"), "missing")
    assert_raises(BadFile, lambda: read_index(index, 1), "cannot be read")
    write_index(index, {"format": 1})
    assert_raises(BadFile, lambda: read_index(index, 2), "format", "1", "2")
    index.write_text(index.read_text().replace('"format": 1', '"format": 1, "more": 2'))
    assert_raises(BadFile, lambda: read_index(index, 1), "modified")


def test_stale_parts_go_and_other_files_stay(tmp_path: Path) -> None:
    for name in ("state-1.safetensors", "state-2.safetensors", "state-3.safetensors.tmp", "notes.txt"):
        (tmp_path / name).touch()
    remove_stale(tmp_path, PARTS, {"state": ("state-2.safetensors", "")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "state-2.safetensors"]


@pytest.mark.parametrize(("part", "refused"), [("state-0.safetensors", False), ("state-1.safetensors", True)])
def test_parts_without_their_index(tmp_path: Path, part: str, refused: bool) -> None:
    (tmp_path / part).touch()
    if refused:
        assert_raises(BadFile, lambda: check_new(tmp_path, "index.json", PARTS), "index.json", "missing")
    else:
        check_new(tmp_path, "index.json", PARTS)


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    check_same(tmp_path, "training", {"seed": 1}, {"seed": 1})
    assert_raises(WrongModel, lambda: check_same(tmp_path, "training", {"seed": 1}, {"seed": 2}), "seed differs")
