"""Choosing on the command line: the front, and the recipe of a budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recipes import cli
from recipes.cli.choose import COSTS, LAYOUTS, RUNTIMES, _parted
from recipes.cli.choose import MENU as OFFERED
from recipes.format.library import load
from surgery.budget.front import UNITS
from surgery.cost import conditions
from surgery.cost.action import MENU
from tests.recipes.cli.commands import refused

DATA = ("cifar/resnet20", "--data", "digits", "--images", "6", "--report-images", "5")
DROP = ("--menu", "drop", "--worst", "50", "--points", "2")


@pytest.mark.slow
def test_a_budget_becomes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    file, plot, journal = tmp_path / "chosen.toml", tmp_path / "front.svg", tmp_path / "journal.json"
    written = ("--output", str(file), "--plot", str(plot), "--resume", str(journal))
    assert cli.main(["choose", *DATA, *DROP, "--sites", "17", *written]) == 0
    out = capsys.readouterr().out
    assert "measured alone 7/7" in out and "points of CifarResNet, 19 sites unedited" in out
    assert "chosen: drop layer" in out and out.endswith(f"written to {file}\n")
    recipe = load(file)
    assert recipe.models == ("cifar/resnet20",) and [rule.use for rule in recipe.rules] == ["drop"]
    assert recipe.choice is not None
    assert (recipe.choice.cost, recipe.choice.budget, recipe.choice.menu) == ("sites", "sites=17", "keep, drop")
    assert recipe.choice.cost_before == 19 and recipe.choice.cost_predicted <= 17 and recipe.choice.reported is not None
    assert "chosen on: 6 images" in recipe.choice.conditions
    assert plot.exists() and journal.exists()
    few = ("--train-num-samples", "20", "--val-num-samples", "10", "--epochs", "0")
    run = ("run", str(file), "--model", "cifar/resnet20", "--data", "digits", *few, "--output", str(tmp_path / "out"))
    assert cli.main(run) == 0 and "1 block" in capsys.readouterr().out


def test_json_is_the_front_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert cli.main(["choose", *DATA, *DROP, "--cost", "macs", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["cost"] == "macs" and "measured alone 7/7" in err
    assert {point["damage"]["images"] for point in found["points"] if point["actions"]} == {6}
    assert {point["reported"]["images"] for point in found["points"] if point["actions"]} == {5}


def test_a_dry_run_says_what_would_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    file = tmp_path / "chosen.toml"
    assert cli.main(["choose", *DATA, "--menu", "drop", "--sites", "17", "--output", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("then together on 6; nothing was written\n") and not file.exists()
    assert cli.main(["choose", *DATA, "--menu", "drop", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["actions"], found["blocks"]) == ({"drop": 7}, 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--menu", "burn"), "'burn' is not on the menu"),
        (("--sites", "9", "--ms", "2"), "The budget is one of another cost"),
        (("--relu-count", "9", "--cost", "macs"), "The budget is one of another cost"),
        (("--output", "chosen.toml"), "A recipe needs a budget"),
        (("--damage", "1", "--output", "chosen.txt"), "a file that ends in .toml"),
        (("--plot", "front.png"), "drawn as SVG"),
        (("--images", "0"), "0 is less than 1"),
        (("--speedup", "0"), "0 is not above 0"),
        (("--worst", "nan"), "nan is not above 0"),
    ],
)
def test_bad_flags_are_named_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "choose", "cifar/resnet20", "--data", "digits", *flags)


def test_labels_of_other_classes_are_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    small = ("timm/test_resnet", *DATA[1:], *DROP)
    assert cli.main(["choose", *small, "--cost", "sites", "--menu", "erase"]) == 0
    out = capsys.readouterr().out
    assert "labels are not used: digits has 10 classes, the model 1000" in out and "accuracy" not in out


def test_the_words_are_those_of_the_library() -> None:
    assert ("keep", *OFFERED) == MENU and set(UNITS) == set(COSTS)
    for runtime in RUNTIMES:
        for layout in LAYOUTS:
            assert conditions.checked(runtime, layout) == (runtime, layout)


def test_some_images_are_always_left_to_report_on() -> None:
    images, labels = torch.rand(10, 3, 4, 4), torch.arange(10)
    for count, chosen in ((4, 4), (10, 5), (500, 5)):
        first, others = _parted(images, labels, count)
        assert (sum(len(batch) for batch, _ in first), sum(len(batch) for batch, _ in others)) == (chosen, 10 - chosen)
