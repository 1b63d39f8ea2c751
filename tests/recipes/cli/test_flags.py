"""Flags: what is given on the command line changes what a recipe says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import recipes
import surgery
from recipes import cli
from recipes.runs.outcome import Measured, Outcome
from tests.recipes.cli.commands import ERASE

MEASURED = Measured(0.5, 10, 1.0, 100, 0.0, 0.0, 9.0)


def test_flags_change_what_a_recipe_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def run(recipe: recipes.Recipe, *words: Any, **options: Any) -> Any:
        asked.append((recipe, words, options))
        return Outcome("a", "b", "c", MEASURED, MEASURED)

    monkeypatch.setattr("recipes.runs.run.run", run)
    words = ["--data", "digits", "--output", "out", "--epochs", "3", "--no-amp", "--model-ema", "--clip-grad", "1"]
    assert (
        cli.main(["run", "resnet-ap", "--model", "timm/resnet18", *words, "--rounds", "2", "--round-epochs", "1"]) == 0
    )
    recipe, given, options = asked.pop()
    ready = recipes.load("resnet-ap")
    assert recipe.pruning == replace(ready.pruning, rounds=2, epochs=1)
    assert recipe.finetune == replace(ready.finetune, epochs=3, amp=False, model_ema=True, clip_grad=1.0)
    assert given == ("timm/resnet18", "digits", "out") and options["pretrained"] is False
    words = words[:-2]
    assert cli.main(["finetune", "timm/test_resnet", *ERASE, *words, "--pretrained", "--resume"]) == 0
    recipe, _, options = asked.pop()
    assert recipe.rules == (surgery.erase_relu(),) and recipe.pruning is None
    assert options["pretrained"] is True and options["resume"] is True
    assert cli.main(["prune", "timm/test_resnet", *words, "--ap-share", "0.02", "--json"]) == 0
    assert asked.pop()[0].pruning == recipes.Pruning(ap_share=0.02)
    assert "saved in out" in capsys.readouterr().err
