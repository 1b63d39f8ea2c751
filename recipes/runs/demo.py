"""The demo: train a small network on real images, then run a recipe with erasing, AP and fine-tuning on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from recipes.format.library import load
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune, Pruning
from recipes.log.plot import plot
from recipes.runs.outcome import Outcome
from recipes.runs.run import run
from surgery.errors import BadFile

RECIPE = "resnet-erase-ap"


def demo(
    output: str | Path | None = None,
    *,
    model: str = "cifar/resnet20",
    img_size: int = 16,
    epochs: int = 6,
    finetune_epochs: int = 2,
    rounds: int = 2,
    train_num_samples: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train `model` on scikit-learn's digits, run a shortened `resnet-erase-ap` on it, and plot its curves.

    `output` is a new folder, by default `surgery-demo` or, if that exists, the next free name. The network is trained
    for `epochs` before the surgery, and for `finetune_epochs` each time after it. The 8 x 8 images are enlarged to
    `img_size` pixels.

    Raises:
        SurgeryError: scikit-learn or matplotlib is not installed, or `output` is not empty.
    """
    folder = Path(output) if output else _free("surgery-demo")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadFile(f"{folder} is not empty.", try_="another --output")
    training = Finetune(epochs=epochs, batch_size=64, lr=0.05, weight_decay=5e-4, warmup_epochs=1 if epochs > 1 else 0)
    short = replace(training, epochs=finetune_epochs, lr=0.02, warmup_epochs=0)
    ready = load(RECIPE)
    recipe = replace(
        ready, finetune=short, pruning=replace(ready.pruning or Pruning(), rounds=rounds, rewind="none", epochs=None)
    )
    fresh = Recipe("training", (), about="Train from scratch.", finetune=training)
    say(f"training {model} on digits")
    trained = folder / "trained"
    given: dict[str, Any] = {"img_size": img_size, "train_num_samples": train_num_samples, "seed": seed, "say": say}
    run(fresh, model, "digits", trained, **given)
    say(f"\nrunning {RECIPE}, shortened")
    edited = folder / "edited"
    outcome = run(recipe, str(trained), "digits", edited, **given)
    say(f"curves in {plot(edited)}")
    return outcome


def _free(name: str) -> Path:
    names = (Path(name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in names if not path.exists())
