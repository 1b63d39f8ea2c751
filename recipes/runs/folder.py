"""Folder: the output folder of a run, claimed while it runs, and its final content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import pruning
import surgery
from recipes.format.parse import to_toml
from recipes.format.recipe import Recipe
from recipes.runs.model_card import card
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile, WrongModel
from surgery.files import write_text

ASKED, RESULT, RECIPE, CARD, MASKS = "run.json", "result.json", "recipe.toml", "README.md", "masks.safetensors"
TRAINING, ROUNDS = "training", "rounds"  # checkpoints, while it runs


def begin(folder: Path, asked: Mapping[str, Any], resume: bool) -> None:
    """Create the folder of a new run, or check that it contains the same run; every process may call it.

    Raises:
        BadFile: the folder is not empty and `resume` is False, or its content cannot be read.
        WrongModel: it contains another run.
    """
    if folder.exists() and not folder.is_dir():
        raise BadFile(f"{folder} is not a folder.", try_="another --output")
    known = json.loads(json.dumps(dict(asked)))
    if folder.is_dir() and (folder / ASKED).is_file():
        if not resume:
            raise BadFile(f"{folder} contains a run.", try_="--resume to continue it, or another --output")
        _check_same(folder, known)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise BadFile(f"{folder} is not empty, and does not contain a run.", try_="another --output")


def claim(folder: Path, asked: Mapping[str, Any]) -> None:
    """Record which run the folder belongs to; called by the first process, after all checks."""
    if not (folder / ASKED).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ASKED, json.dumps(dict(asked), indent=1) + "\n")


def is_claimed(folder: str | Path) -> bool:
    """Whether a run was begun in the folder, so that it can be resumed."""
    return (Path(folder) / ASKED).is_file()


def release(folder: Path) -> None:
    """Release the folder of a run that failed before training, so that a corrected call can use it."""
    if folder.is_dir() and {file.name for file in folder.iterdir()} <= {ASKED}:
        shutil.rmtree(folder)


def finished(folder: Path) -> Outcome | None:
    """The outcome of a finished run, None if it has not finished.

    Raises:
        BadFile: the outcome cannot be read.
    """
    if not ((folder / RESULT).is_file() and (folder / CARD).is_file()):
        return None
    try:
        return Outcome.from_json((folder / RESULT).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BadFile(f"{folder / RESULT} is not text.", asked=str(error), try_="another --output") from error


def finish(
    folder: Path,
    model: nn.Module,
    masks: pruning.Masks | None,
    recipe: Recipe,
    outcome: Outcome,
    name: str,
    kwargs: Mapping[str, Any],
) -> None:
    """Write the result: the model, its masks if it was ever pruned, the recipe as it was run, the figures, and a card;
    checkpoints are removed then."""
    surgery.save(model, folder, name=name, kwargs=dict(kwargs))
    if masks is not None:
        masks.save(folder / MASKS)
    write_text(folder / RECIPE, to_toml(recipe))
    write_text(folder / RESULT, outcome.to_json())
    write_text(folder / CARD, card(folder))  # now it is finished
    for stage in (folder / TRAINING, *folder.glob(f"{ROUNDS}-*")):
        shutil.rmtree(stage, ignore_errors=True)


def masks_in(folder: Path) -> pruning.Masks | None:
    """The masks of the network in a saved folder; None without masks.

    Raises:
        BadFile: they cannot be read.
    """
    return pruning.Masks.load(folder / MASKS) if (folder / MASKS).is_file() else None


def _check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    try:
        there = json.loads((folder / ASKED).read_text(encoding="utf-8"))
        if not isinstance(there, dict):
            raise ValueError("no table of what was asked")
        differing = sorted(name for name in {*asked, *there} if asked.get(name) != there.get(name))
    except (ValueError, TypeError, OSError) as error:
        raise BadFile(f"{folder / ASKED} cannot be read.", asked=str(error), try_="another --output") from error
    if differing:
        ours, theirs = (", ".join(f"{name}={options.get(name)!r}" for name in differing) for options in (asked, there))
        raise WrongModel(
            f"{folder} contains another run: {', '.join(differing)} differ.", asked=_short(ours), there=_short(theirs),
            try_="the same call as before, or another --output",
        )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
