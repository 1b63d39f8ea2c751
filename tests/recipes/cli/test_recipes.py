"""Recipes on the command line: listed, shown, copied, checked and drafted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import recipes
from recipes import cli
from tests.recipes.cli.commands import SMALL, refused, refused_after


def test_recipes_are_listed_shown_copied_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "ls", "vgg-*", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == recipes.names("vgg-*") and all(entry["about"] for entry in listed)
    assert cli.main(["recipes", "show", "vgg-erase-pairs"]) == 0
    shown = capsys.readouterr().out
    mine = tmp_path / "mine.toml"
    assert cli.main(["recipes", "copy", "vgg-erase-pairs", str(mine)]) == 0
    assert mine.read_text() == shown and "copied to" in capsys.readouterr().out
    assert "a file of this name" in refused(capsys, "recipes", "copy", "vgg-erase-pairs", str(mine))
    assert cli.main(["recipes", "check", str(mine), "--model", "torchvision/vgg11", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert "cannot be applied" in refused_after(capsys, "recipes", "check", str(mine), "--model", "timm/test_vit")
    mine.write_text(shown.replace("location", "locaton") + "\n[finetune2]\nepochs = 1\n")
    problem = refused(capsys, "recipes", "check", str(mine))
    assert "locaton" in problem and "finetune2" in problem, "all problems at once"


def test_a_copy_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    problem = refused(capsys, "recipes", "copy", "vgg-erase-pairs", str(tmp_path / "mine.toml"))
    assert "no space left" in problem and list(tmp_path.iterdir()) == []


def test_a_new_recipe_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "new", "timm/test_resnet"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    words = ["transform", *SMALL, "--recipe", str(tmp_path / "mine.toml")]
    assert cli.main(words) == 0
    assert "of 12 relu calls" in capsys.readouterr().out
