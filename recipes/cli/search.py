"""The command that searches: `search`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from recipes.cli.flags import Commands, add_settings, add_weights, command, positive, say_for, settings_given
from recipes.format.settings import Finetune

# As in recipes.activation_search, which imports torch, and that takes its time.
ENGINES = ("exhaustive", "evolution", "tpe")
STOPPINGS = ("median", "halving", "none")
MLP = "mlp"


def add_commands(commands: Commands[Any]) -> None:
    """Add the command `search`."""
    about = "try activation functions in a network, and report accuracy against time"
    search = command(commands, "search", _search, about, "surgery search one-core --trials 20")
    search.add_argument("space", metavar="SPACE", help="one-core, two-core, or a file of functions that ends in .toml")
    search.add_argument(
        "--model", default=MLP, help="mlp (small), timm/NAME, torchvision/NAME, cifar/NAME or a folder (%(default)s)"
    )
    search.add_argument(
        "--data", "--dataset", default="digits", metavar="NAME|DIR",
        help="digits, cifar10, cifar100, a folder with train/CLASS/*, or a name of timm's (default: %(default)s)",
    )  # fmt: skip
    search.add_argument("--data-dir", metavar="DIR", help="where the data is, for names")
    search.add_argument("--output", default="search", metavar="DIR", help="the folder for the results (%(default)s)")
    search.add_argument("--dry-run", action="store_true", help="check everything, and train nothing")
    _add_picking(search)
    _add_place(search)
    images = search.add_argument_group("images and weights")
    images.add_argument("--img-size", type=positive, metavar="N", help="side of the model's input in pixels")
    images.add_argument("--train-num-samples", type=positive, metavar="N", help="number of images to train on")
    images.add_argument("--val-num-samples", type=positive, metavar="N", help="number of images to test on")
    add_weights(images)
    add_settings(search, Finetune, "the training of a candidate (mlp: 5 epochs, batches of 64, rate 0.05)")


def _add_picking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("candidates")
    group.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what picks them (default: %(default)s)")
    group.add_argument(
        "--trials", type=positive, metavar="N", help="how many (default: all distinct functions, or 100)"
    )
    group.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="trainings of each (default: %(default)s)"
    )
    group.add_argument(
        "--stopping", choices=STOPPINGS, default=STOPPINGS[0], help="which trainings end early (default: %(default)s)"
    )
    group.add_argument("--fixed-betas", action="store_true", help="parameters of the functions are 1, and do not learn")
    group.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def _add_place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument("--storage", metavar="URL", help="postgresql://USER@HOST/NAME (default: SQLite in --output)")
    group.add_argument("--study", metavar="NAME", help="its name there (default: of space, model and data)")
    group.add_argument("--resume", action="store_true", help="go on with it, or take part from another machine")
    group.add_argument(
        "-j", "--workers", type=positive, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    group.add_argument(
        "--heartbeat", type=positive, default=60, metavar="N", help="seconds between their signs of life (%(default)s)"
    )
    group.add_argument("--device", help="cpu, cuda, ... (default: cuda if available)")


def _search(options: argparse.Namespace) -> None:
    from recipes.activation_search.search import search, training_for

    say = say_for(options)
    front = search(
        options.space, options.model, options.data, options.output, storage=options.storage, study=options.study,
        engine=options.engine, trials=options.trials, seeds=options.seeds, stopping=options.stopping,
        finetune=replace(training_for(options.model), **settings_given(options, Finetune)),
        learn=not options.fixed_betas, pretrained=options.weights or options.pretrained, data_dir=options.data_dir,
        img_size=options.img_size, train_num_samples=options.train_num_samples,
        val_num_samples=options.val_num_samples, workers=options.workers, device=options.device, seed=options.seed,
        heartbeat=options.heartbeat, resume=options.resume, dry_run=options.dry_run, say=say,
    )  # fmt: skip
    if not options.dry_run:
        print(front.to_json() if options.json else front)
        say(f"written to {options.output}")
