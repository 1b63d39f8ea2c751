"""Recipes on the command line: listed, shown, copied, checked and drafted."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
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
    assert shown.startswith(mine.read_text()) and "copied to" in capsys.readouterr().out
    assert "a file of this name" in refused(capsys, "recipes", "copy", "vgg-erase-pairs", str(mine))
    assert cli.main(["recipes", "check", str(mine), "--model", "torchvision/vgg11", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert "cannot be applied" in refused_after(capsys, "recipes", "check", str(mine), "--model", "timm/test_vit")
    mine.write_text(shown.replace("location", "locaton") + "\n[finetune2]\nepochs = 1\n")
    problem = refused(capsys, "recipes", "check", str(mine))
    assert "locaton" in problem and "finetune2" in problem, "all problems at once"


def test_what_was_measured_is_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "ls", "--json"]) == 0
    listed = {entry["name"]: entry["effects"] for entry in json.loads(capsys.readouterr().out)}
    assert listed == {name: [asdict(effect) for effect in recipes.effects(name)] for name in recipes.names()}
    name, (first, *_) = next((name, found) for name, found in listed.items() if found)
    assert cli.main(["recipes", "ls", name]) == 0
    assert f"{100 * first['difference']:+.1f} ± {100 * first['error']:.1f}" in capsys.readouterr().out
    assert cli.main(["recipes", "show", name]) == 0
    shown = capsys.readouterr().out
    assert f"# Measured on {first['network']}: {100 * first['before']:.1f} %" in shown and "# One seed" in shown
    (tmp_path / "shown.toml").write_text(shown)
    assert recipes.load(tmp_path / "shown.toml").rules == recipes.load(name).rules, "comments, so that it is a recipe"


def test_recipes_are_found_by_model_and_goal(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipes", "find", "--model", "cifar/resnet20", "--goal", "speed"]
    assert cli.main(words) == 0
    assert "for cifar/resnet20, the fastest first" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["recipes"]
    times = [min(row["effect"]["time"], row["effect"]["merged_time"] or 9) for row in found if row["effect"]]
    assert times == sorted(times) and times and {row["recipe"] for row in found} == set(recipes.names("resnet-*"))
    assert "relu-count" in refused(capsys, *words[:-1], "relus")


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
