"""Files of a network: whole or not there, where they were asked for, with what someone who runs them has to know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from surgery.deploy.network import Network, network_of
from surgery.deploy.target import Target
from surgery.deploy.written import check_free, written
from surgery.errors import BadFile, NotConvertible
from tests.asserts import assert_raises
from tests.surgery.deploy.memory import MEMORY, lacking

NETWORK = network_of(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(2, 3))


def keep(output: Path, target: Target = MEMORY, network: Network = NETWORK) -> Path:
    with written(network, target, output) as made:
        made.keep()
    return output


def test_a_network_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    assert_raises(NotConvertible, lambda: keep(tmp_path / "new" / "deep" / "net", lacking("relu")), "relu")
    assert list(tmp_path.iterdir()) == []


def test_parents_are_made_for_what_is_kept(tmp_path: Path) -> None:
    assert (keep(tmp_path / "new" / "deep" / "net") / "deploy.json").is_file()
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["new", "deep", "net"]


def test_a_link_to_an_empty_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "net").symlink_to("disk")
    keep(tmp_path / "net")
    assert (tmp_path / "net").is_symlink() and (tmp_path / "disk" / "deploy.json").is_file()


def test_no_folder_is_made_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_raises(BadFile, lambda: check_free(tmp_path / "file" / "deep" / "net"), "is a file", "another folder")


def test_what_appears_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    def write(network: Network, folder: Path) -> None:
        MEMORY.write(network, folder)
        (tmp_path / "net").write_text("precious")

    assert_raises(BadFile, lambda: keep(tmp_path / "net", replace(MEMORY, write=write)), "cannot be written")
    assert (tmp_path / "net").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
