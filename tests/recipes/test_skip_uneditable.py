"""Calls that cannot be edited are left alone and reported if a recipe, an argument or a flag says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recipes
import surgery
from recipes.cli import main
from recipes.format.parse import parse, to_toml
from recipes.format.recipe import Finetune, Recipe
from recipes.models.build import _BUILDERS
from surgery.errors import BadFile, SurgeryError
from tests.asserts import assert_raises

TEXT = """format = 1
skip_uneditable = true

[[rule]]
use = "swap"
to = "silu"
"""


class Computed(nn.Module):
    """A ReLU that can be edited, and a PReLU that cannot: its weight is computed from another."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.relu, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.PReLU(4)
        nn.utils.parametrize.register_parametrization(self.act, "weight", nn.Identity())
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.relu(self.conv(x))).mean((2, 3)))


class Hidden(nn.Module):
    """A ReLU that can be edited, and one whose function is looked up by its name when called."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = getattr(nn.functional, "relu")(self.relu(self.conv(x)))  # noqa: B009
        return self.fc(hidden.mean((2, 3)))


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model name for which another network is built."""
    build: Callable[..., nn.Module] = lambda short, published, kwargs: Hidden(**kwargs)  # noqa: E731
    monkeypatch.setitem(_BUILDERS, "cifar", build)
    return "cifar/resnet20"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The model name for which this network is built."""
    build: Callable[..., nn.Module] = lambda short, published, kwargs: Computed(**kwargs)  # noqa: E731
    monkeypatch.setitem(_BUILDERS, "cifar", build)
    return "cifar/resnet20"


def test_a_file_says_so_and_is_written_again() -> None:
    recipe = parse(TEXT)
    assert recipe.skip_uneditable and not parse(TEXT.replace("skip_uneditable = true", "")).skip_uneditable
    assert parse(to_toml(recipe)) == recipe and "skip_uneditable = true" in to_toml(recipe)
    assert_raises(BadFile, lambda: parse(TEXT.replace("true", '"yes"')), "skip_uneditable is true or false", "'yes'")


def test_transform_heeds_the_recipe() -> None:
    example = torch.randn(2, 3, 8, 8)
    assert_raises(SurgeryError, lambda: surgery.transform(Computed(), parse(TEXT).rules, example), "act")
    _, report = surgery.transform(Computed(), parse(TEXT), example)
    assert [str(edit.site) for edit in report.plan.edits] == ["relu"]


@pytest.mark.parametrize("by", ["recipe", "argument"])
def test_a_run_leaves_them_alone_and_tells(by: str, computed: str, tmp_path: Path) -> None:
    said: list[str] = []
    rules = (surgery.swap("silu"),)
    recipe = Recipe("mine", rules, finetune=Finetune(epochs=1, batch_size=8), skip_uneditable=by == "recipe")
    call: dict[str, Any] = {"train_num_samples": 16, "val_num_samples": 8, "say": said.append}
    plain = Recipe("plain", rules)
    assert_raises(SurgeryError, lambda: recipes.run(plain, computed, "digits", tmp_path / "plain", **call), "act")
    outcome = recipes.run(recipe, computed, "digits", tmp_path / "out", skip_uneditable=by == "argument", **call)
    assert outcome.swapped == 1 and "cannot be edited: " in "\n".join(said) and "act has" in "\n".join(said)
    assert "skip_uneditable = true" in (tmp_path / "out" / "recipe.toml").read_text()


def test_the_flag_of_transform(computed: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["transform", computed, "--shape", "2,3,8,8", "--rule", "swap:to=silu"]
    assert main(words) == 2 and capsys.readouterr().err.count("\n") == 1
    assert main([*words, "--skip-uneditable"]) == 0
    assert "cannot be edited: " in capsys.readouterr().out


@pytest.mark.parametrize("by", ["recipe", "flag"])
def test_a_check_tells_what_is_left_alone(
    by: str, hidden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TEXT if by == "recipe" else TEXT.replace("skip_uneditable = true", ""))
    words = ["recipes", "check", str(file), "--model", hidden, *(["--skip-uneditable"] if by == "flag" else [])]
    reason = "cannot be edited: relu 2/2: getattr(nn.functional, 'relu')(...) is not a plain name"
    assert main(words) == 0
    assert f"  kept: 1 ({reason})\n" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == [{"site": "relu 2/2", "reason": reason}]


def test_a_check_leaves_nothing_alone_unless_it_is_asked_to(
    hidden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(TEXT.replace("skip_uneditable = true", ""))
    main(["recipes", "check", str(tmp_path / "mine.toml"), "--model", hidden])
    assert "left alone" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["run", "resnet-erase-last", "--model", "timm/m"], ["finetune", "timm/m"]])
def test_the_flag_of_what_trains(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(*_: Any, **options: Any) -> None:
        given.update(options)
        raise SurgeryError("enough")

    monkeypatch.setattr("recipes.runs.run.run", run)
    for flags in ([], ["--skip-uneditable"]):
        assert main([*words, "--data", "digits", "--output", "out", *flags]) == 2
        assert given["skip_uneditable"] is bool(flags)
