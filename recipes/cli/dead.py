"""The command that finds dead neurons: `dead`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.flags import Commands, add_weights, check_new, command, positive, say_for
from recipes.cli.images import add_data, opened

if TYPE_CHECKING:
    from torch.nn import Module

    from pruning import DeadNeurons
    from recipes.data.feed import Batch
    from surgery.progress import Say

TABLE, PLOT, PAGE = "dead.json", "dead.png", "network.html"


def add_commands(commands: Commands[Any]) -> None:
    """Add the command `dead`."""
    about = "count the neurons that are never active on test images, call by call"
    dead = command(commands, "dead", _dead, about, "surgery dead timm/resnet18 --pretrained --data DIR --output dead")
    dead.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_weights(dead)
    add_data(dead)
    dead.add_argument("--images", type=positive, default=500, metavar="N", help="test images to run (%(default)s)")
    dead.add_argument("--batch-size", type=positive, default=100, metavar="N", help="images at once (%(default)s)")
    dead.add_argument(
        "--threshold", type=float, default=0.0, metavar="X", help="outputs up to this are silent (%(default)s)"
    )
    dead.add_argument("--device", help="cpu, cuda, ... (default: cuda if available)")
    dead.add_argument("--output", metavar="DIR", help=f"a new folder for {TABLE}, {PLOT} and {PAGE}")
    dead.add_argument("--dry-run", action="store_true", help="say what would be done, and how long it takes")


def _dead(options: argparse.Namespace) -> None:
    import pruning
    from recipes.models.build import build
    from recipes.models.names import resolve
    from recipes.runs.folder import masks_in
    from recipes.train.device import place_of
    from surgery.progress import in_words

    check_new(options.output, "--output")
    named, say, device = resolve(options.model), say_for(options), place_of(options.device).device
    data = opened(options, named, options.images)
    model = build(named, options.weights or options.pretrained).to(device)
    masks = None if named.folder is None else masks_in(named.folder)
    batches, count = data.testing(options.batch_size, device), data.counts[1] or options.images
    steps = ceil(count / options.batch_size)

    def measured(some: Iterable[Batch]) -> DeadNeurons:
        return pruning.dead_neurons(model, some, masks, threshold=options.threshold)

    if options.dry_run:
        found, seconds = _timed(measured, next(iter(batches)), steps)
        say(f"{len(found.rows)} calls, {found.channels} channels of {named.full}")
        say(f"{count} test images of {data.name} in {steps} steps: about {in_words(seconds)} on {device}")
        say(f"writes {TABLE}, {PLOT} and {PAGE} in {options.output}" if options.output else "writes nothing")
        return
    rates = measured(_counted(batches, steps, say))
    print(rates.to_json() if options.json else rates)
    if options.output:
        _write(Path(options.output), model, rates, named.full, say)


def _counted(batches: Iterable[Batch], steps: int, say: Say) -> Iterator[Batch]:
    """The batches, each told when the next one is asked for."""
    from surgery.progress import Progress

    progress, images = Progress(say, "dead neurons", steps), 0
    for batch in batches:
        yield batch
        images += len(batch[0])
        progress.step(f"{images} images")


def _timed(measured: Callable[[Iterable[Batch]], DeadNeurons], batch: Batch, steps: int) -> tuple[DeadNeurons, float]:
    """What is measured on one batch, and how many seconds all of them will take: looking at the model is done once."""
    times = []
    for some in ([batch], [batch], [batch, batch]):  # the first time warms up
        began = time.perf_counter()
        found = measured(some)
        times.append(time.perf_counter() - began)
    _, one, two = times
    return found, one + max(two - one, 0.0) * (steps - 1)


def _write(folder: Path, model: Module, rates: DeadNeurons, name: str, say: Say) -> None:
    """Write the numbers, the plot if it can be drawn, and the drawing."""
    import surgery
    from surgery.errors import SurgeryError, one_line
    from surgery.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, rates.to_json() + "\n")
    surgery.draw(model, folder / PAGE, values=rates, title=name)
    try:
        rates.plot(folder / PLOT)
    except SurgeryError as error:  # matplotlib is an extra
        say(f"no {PLOT}: {one_line(error)}")
    say(f"saved in {folder}")
