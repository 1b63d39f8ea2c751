"""Commands that train: `run`, `finetune`, `prune`, `demo`, and `plot`, which plots their results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recipes.cli.flags import (
    Commands,
    add_rules,
    add_settings,
    add_skip,
    add_weights,
    command,
    count,
    positive,
    rules_of,
    say_for,
    skips,
)
from recipes.cli.flags import settings_given as given
from recipes.format.settings import CROP_MODES, INTERPOLATIONS, Finetune, Pruning

if TYPE_CHECKING:
    from recipes.format.recipe import Recipe
    from recipes.runs.outcome import Outcome
    from recipes.runs.rehearsal import Rehearsal


def add_commands(commands: Commands[Any]) -> None:
    """Declare them."""
    example = "surgery run resnet-erase-fade --model cifar/resnet20 --weights FILE --data cifar10 --output out"
    run = command(commands, "run", _run, "edit, prune and fine-tune a model as a recipe says", example)
    run.add_argument("recipe", metavar="RECIPE", help="a name of `surgery recipes ls`, or a file that ends in .toml")
    run.add_argument("--model", required=True, help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_skip(run)
    _add_run(run)
    _add_pruning(run)

    example = "surgery finetune timm/resnet18 --rule erase_relu --data digits --epochs 2 --output out"
    finetune = command(commands, "finetune", _finetune, "fine-tune a model, with or without surgery first", example)
    finetune.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_rules(finetune)
    _add_run(finetune)

    example = "surgery prune timm/resnet18 --data digits --share 0.2 --rounds 2 --ap-share 0.02 --epochs 1 --output out"
    prune = command(commands, "prune", _prune, "prune a model in rounds, with or without AP", example)
    prune.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_rules(prune)
    _add_run(prune)
    _add_pruning(prune)

    demo = command(
        commands, "demo", _demo, "train, erase, prune and fine-tune a small network on digits", "surgery demo"
    )
    demo.add_argument("--model", default="cifar/resnet20", help="the network to train (default: %(default)s)")
    demo.add_argument("--epochs", type=count, default=6, help="passes before the surgery (default: %(default)s)")
    demo.add_argument("--finetune-epochs", type=count, default=2, help="passes of each training after it (default: 2)")
    demo.add_argument("--seed", type=int, default=0, help="random seed of weights and order (default: %(default)s)")
    demo.add_argument("--output", metavar="DIR", help="a new folder (default: surgery-demo, or the next free name)")

    plot = command(commands, "plot", _plot, "draw the curves of runs", "surgery plot out other", json=False)
    plot.add_argument(
        "folders", metavar="DIR", nargs="+", help="the --output folder of a run, or of several to compare"
    )
    plot.add_argument("--save", metavar="FILE", help="the image file (default: curves.png in the first folder)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of a run: its data, its output folder, and its training."""
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--data", "--dataset", required=True, metavar="NAME|DIR",
        help="digits, cifar10, cifar100, a folder with train/CLASS/*, or a name of timm's such as hfds/NAME",
    )  # fmt: skip
    group.add_argument("--data-dir", metavar="DIR", help="where the data is, for names")
    group.add_argument("--output", metavar="DIR", required=True, help="a new folder for everything the run writes")
    group.add_argument("--resume", action="store_true", help="resume the run in --output")
    group.add_argument("--dry-run", action="store_true", help="show what would be done and how long it would take")
    group.add_argument("--img-size", type=positive, metavar="N", help="side of the model's input in pixels")
    group.add_argument("--mean", type=float, nargs=3, metavar="X", help="mean of the pixels, instead of the model's")
    group.add_argument(
        "--std", type=float, nargs=3, metavar="X", help="standard deviation of the pixels, instead of the model's"
    )
    group.add_argument(
        "--interpolation", choices=INTERPOLATIONS, help="interpolation for resizing, instead of the model's"
    )
    group.add_argument("--crop-pct", type=float, metavar="X", help="fraction of large images to keep when testing")
    group.add_argument("--crop-mode", choices=CROP_MODES, help="how large images are cropped")
    group.add_argument("--train-num-samples", type=positive, metavar="N", help="number of random images to train on")
    group.add_argument("--val-num-samples", type=positive, metavar="N", help="number of random images to test on")
    group.add_argument("-j", "--workers", type=count, default=2, metavar="N", help="processes that load large images")
    group.add_argument("--device", help="cpu, cuda, ... (default: cuda if available)")
    group.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    group.add_argument(
        "--recovery-interval", type=count, default=0, metavar="N", help="also save a checkpoint every N steps"
    )
    group.add_argument("--log-tensorboard", action="store_true", help="also write TensorBoard files")
    group.add_argument("--log-wandb", action="store_true", help="also log to Weights & Biases")
    group.add_argument("--push-to-hub", metavar="REPO", help="upload the result to this private repository")
    add_weights(group)
    add_settings(parser, Finetune, "fine-tuning (as in timm's train.py)")


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, Pruning, "pruning", rename={"epochs": "round_epochs"})


def _run(options: argparse.Namespace) -> None:
    from recipes.format.library import load

    recipe = load(options.recipe)
    changed = given(options, Pruning)
    pruning = replace(recipe.pruning or Pruning(), **changed) if recipe.pruning or changed else None
    _carry_out(replace(recipe, pruning=pruning), options)


def _finetune(options: argparse.Namespace) -> None:
    _carry_out(_own(options, "finetune", None), options)


def _prune(options: argparse.Namespace) -> None:
    _carry_out(_own(options, "prune", Pruning(**given(options, Pruning))), options)


def _own(options: argparse.Namespace, name: str, pruning: Pruning | None) -> Recipe:
    """A recipe built from flags."""
    from recipes.format.recipe import Recipe

    return Recipe(name, rules_of(options), pruning=pruning, finetune=Finetune())


def _carry_out(recipe: Recipe, options: argparse.Namespace) -> None:
    from recipes.log.trackers import TRACKERS
    from recipes.runs.hub import check_repo, push_to_hub
    from recipes.runs.rehearsal import rehearse
    from recipes.runs.run import run
    from recipes.train.device import place_of

    changed = given(options, Finetune)
    if recipe.finetune or changed:
        recipe = replace(recipe, finetune=replace(recipe.finetune or Finetune(), **changed))
    trackers = [name for name in TRACKERS if getattr(options, f"log_{name}")]
    say = say_for(options)
    if options.push_to_hub:
        check_repo(options.push_to_hub)
    start: dict[str, Any] = dict(
        pretrained=options.weights or options.pretrained, data_dir=options.data_dir, img_size=options.img_size,
        preprocessing=_preprocessing(options), train_num_samples=options.train_num_samples,
        val_num_samples=options.val_num_samples, workers=options.workers, device=options.device, seed=options.seed,
        skip_uneditable=skips(options), say=say,
    )  # fmt: skip
    if options.dry_run:
        made: Rehearsal | Outcome = rehearse(recipe, options.model, options.data, **start)
    else:
        made = _interruptible(options, lambda: run(
            recipe, options.model, options.data, options.output, **start, resume=options.resume, trackers=trackers,
            recovery_interval=options.recovery_interval,
        ))  # fmt: skip
    if not place_of(options.device).first:
        return
    print(json.dumps(made.facts(), indent=1) if options.json else made)
    if options.dry_run:
        return
    say(f"saved in {options.output}")
    if options.push_to_hub:
        say(f"pushed to {push_to_hub(options.output, options.push_to_hub)}")


def _interruptible(options: argparse.Namespace, carry_out: Callable[[], Outcome]) -> Outcome:
    """What is carried out; if it is interrupted, how to go on is said."""
    from recipes.runs.folder import is_claimed
    from recipes.train.device import place_of

    try:
        return carry_out()
    except KeyboardInterrupt:
        if is_claimed(options.output) and place_of(options.device).first:
            print("surgery: interrupted; go on with the same command and --resume", file=sys.stderr)
        raise


def _preprocessing(options: argparse.Namespace) -> dict[str, Any]:
    """The preprocessing settings that override the model's."""
    given = {name: getattr(options, name) for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    return {name: value for name, value in given.items() if value is not None}


def _demo(options: argparse.Namespace) -> None:
    from recipes.runs.demo import demo

    outcome = demo(
        options.output,
        model=options.model,
        epochs=options.epochs,
        finetune_epochs=options.finetune_epochs,
        seed=options.seed,
        say=say_for(options),
    )
    print(json.dumps(outcome.facts(), indent=1) if options.json else outcome)


def _plot(options: argparse.Namespace) -> None:
    from recipes.log.plot import plot

    print(plot(options.folders, options.save))
