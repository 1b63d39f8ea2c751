"""Runs of a minute network on a few digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import recipes
import surgery
from recipes.format.recipe import Finetune, Recipe
from recipes.runs.outcome import Outcome

MODEL = "timm/test_resnet"


SHORT = Finetune(epochs=1, batch_size=32, lr=0.02)


FADE = Recipe("fade", (surgery.erase_relu(fade=True),), finetune=SHORT)


def small_run(recipe: Recipe | str, output: Path, **options: Any) -> tuple[Outcome, list[str]]:
    """A run on 96 digits."""
    said: list[str] = []
    options = {"train_num_samples": 96, "val_num_samples": 50, "say": said.append} | options
    return recipes.run(recipe, MODEL, "digits", output, **options), said
