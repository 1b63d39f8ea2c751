"""The command that chooses: `choose`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from recipes.cli.flags import Commands, add_shape, add_weights, command, positive, say_for
from recipes.cli.images import add_data, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Module

    from recipes.data.dataset import Data
    from recipes.format.recipe import Choice, Recipe
    from surgery.budget.front import Cost, Front, Point

    Batches = list[Tensor] | list[tuple[Tensor, Tensor]]

# As in surgery.cost and surgery.budget, which import torch, and that takes its time.
MENU = ("erase", "affine", "merge", "drop", "swap")
COSTS = ("latency", "relu_count", "sites", "macs")
RUNTIMES = ("eager", "compiled", "onnxruntime")
LAYOUTS = ("channels_last", "contiguous")

_BATCH = 100  # images that are predicted at once
_DIGITS = 6  # of figures in a recipe

# The budgets, the cost that each is of (None: any), and what it says.
_BUDGETS: dict[str, tuple[Cost | None, str]] = {
    "speedup": ("latency", "how many times faster it must be, such as 1.3"),
    "ms": ("latency", "the most milliseconds that it may take"),
    "relu_count": ("relu_count", "the most activation elements per image"),
    "sites": ("sites", "the most activation calls"),
    "macs": ("macs", "the most multiply-adds per image"),
    "damage": (None, "the largest divergence of the predictions, in nats, such as 0.05"),
}


def add_commands(commands: Commands[Any]) -> None:
    """Add the command `choose`."""
    about = "measure which edits of a model pay, and choose those within a budget"
    example = "surgery choose cifar/resnet56 --weights FILE --data cifar10 --speedup 1.1 --output chosen.toml"
    choose = command(commands, "choose", _choose, about, example)
    choose.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_weights(choose)
    add_data(choose)
    choose.add_argument(
        "--images", type=positive, default=500, metavar="N", help="test images to choose on (%(default)s)"
    )
    choose.add_argument(
        "--report-images", type=positive, metavar="N", help="other test images to report on (as many as to choose on)"
    )
    budget = choose.add_argument_group("the budget (the front alone without one)")
    for name, (_, about) in _BUDGETS.items():
        budget.add_argument(f"--{name.replace('_', '-')}", type=_above_0, metavar="X", help=about)
    group = choose.add_argument_group("what is measured")
    group.add_argument("--menu", default=",".join(MENU), help="what may be done (default: %(default)s)")
    group.add_argument(
        "--swap-to", default="relu", metavar="NAME", help="the function to swap to (default: %(default)s)"
    )
    group.add_argument("--fit", action="store_true", help="fit affine maps to the images, as surgery.fit_affine does")
    group.add_argument("--cost", choices=COSTS, help="what is saved (default: that of the budget, else latency)")
    group.add_argument(
        "--worst", type=_above_0, default=0.5, metavar="X", help="damage to stop at (default: %(default)s)"
    )
    group.add_argument("--screen", type=positive, metavar="N", help="images for single edits (default: all)")
    group.add_argument("--points", type=positive, default=16, metavar="N", help="points of the exact front to measure")
    group.add_argument("--runtime", choices=RUNTIMES, default="eager", help="what is timed (default: %(default)s)")
    group.add_argument(
        "--layout", choices=LAYOUTS, default="channels_last", help="of the images (default: %(default)s)"
    )
    group.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images that are timed at once (1)")
    group.add_argument("--table", metavar="FILE", help="latencies measured before, by surgery.time_blocks")
    choose.add_argument("--output", metavar="FILE.toml", help="write the choice as a recipe, for surgery run")
    choose.add_argument("--plot", metavar="FILE.svg", help="draw the front")
    choose.add_argument("--resume", metavar="FILE.json", help="keep measurements there, and go on from them")
    choose.add_argument("--dry-run", action="store_true", help="show what would be measured and how long it would take")
    add_shape(choose)


def _choose(options: argparse.Namespace) -> None:
    import torch

    import surgery
    from recipes.models.build import build
    from recipes.models.names import resolve
    from surgery.budget.rehearsal import rehearse
    from surgery.cost.action import checked_menu

    budget = {name: value for name in _BUDGETS if (value := getattr(options, name)) is not None}
    cost, menu = _cost(options.cost, budget), checked_menu(options.menu.split(","))
    _check_output(options, budget)
    named, say = resolve(options.model), say_for(options)
    data = opened(options, named, options.images + (options.report_images or options.images))
    model = build(named, options.weights or options.pretrained)
    images, labels = _tested(data)
    example = images[: options.batch_size] if options.shape is None else torch.rand(options.shape)
    known = _knows_classes(model, example, data, say)
    chosen_on, reported_on = _parted(images, labels if known else None, options.images)
    if options.dry_run:
        rehearsal = rehearse(
            model, chosen_on, menu, cost, timed=bool(options.table), swap_to=options.swap_to, fit=options.fit,
            screen=options.screen, example=example,
        )  # fmt: skip
        print(json.dumps(rehearsal.facts()) if options.json else rehearsal)
        return
    front = surgery.choose(
        model, chosen_on, menu, cost, runtime=options.runtime, table=options.table, report_on=reported_on,
        layout=options.layout, swap_to=options.swap_to, fit=options.fit, worst=options.worst, points=options.points,
        screen=options.screen, example=example, path=options.resume, progress=say,
    )  # fmt: skip
    if options.plot:
        front.plot(options.plot)
    print(front.to_json() if options.json else front)
    if budget:
        point = front.point(**budget)
        say(f"chosen: {point}")
        if options.output:
            _write(options.output, front, point, named.full, budget)
            say(f"written to {options.output}")


def recipe_of(front: Front, point: Point, model: str, budget: dict[str, float]) -> Recipe:
    """The recipe of a point of a front, which says how it was chosen for the model of this full name."""
    from recipes.format.recipe import Recipe

    return Recipe(
        "chosen", point.rules, f"Chosen for {model} within {_in_words(budget)}.", "surgery.choose", (model,),
        choice=_choice(front, point, model, budget),
    )  # fmt: skip


def _choice(front: Front, point: Point, model: str, budget: dict[str, float]) -> Choice:
    from recipes.format.recipe import Choice

    conditions = dict(front.conditions)
    reported = point.reported
    seen = reported or point.damage
    figures = {
        "cost_before": front.total, "cost_predicted": point.predicted_cost, "cost_measured": point.cost,
        "damage_predicted": point.predicted_damage, "damage": point.damage.kl, "damage_error": point.damage.error,
        "reported": None if reported is None else reported.kl,
        "reported_error": None if reported is None else reported.error,
        "accuracy_change": seen.accuracy, "accuracy_error": seen.accuracy_error,
    }  # fmt: skip
    rounded: dict[str, Any] = {
        name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in figures.items()
    }
    told = "; ".join(f"{name}: {text}" for name, text in front.conditions if name not in ("menu", "cost"))
    return Choice(
        model=model, menu=conditions["menu"], cost=front.kind, budget=_in_words(budget), conditions=told, **rounded
    )


def _write(file: str, front: Front, point: Point, model: str, budget: dict[str, float]) -> None:
    from pathlib import Path

    from recipes.format.parse import to_toml
    from surgery.files import write_text

    write_text(Path(file), to_toml(recipe_of(front, point, model, budget)))


def _cost(asked: Cost | None, budget: dict[str, float]) -> Cost:
    """The cost to choose by: as asked, else that of the budget, else the latency."""
    from surgery.errors import BadValue

    wanted = [cost for name in budget if (cost := _BUDGETS[name][0]) is not None]
    found = list(dict.fromkeys([*([] if asked is None else [asked]), *wanted]))
    if len(found) > 1:
        raise BadValue("The budget is one of another cost.", asked=", ".join(found), try_="one cost")
    return found[0] if found else "latency"


def _check_output(options: argparse.Namespace, budget: dict[str, float]) -> None:
    """Check what is written at the end before anything is measured."""
    from surgery.errors import BadValue

    if options.output and not options.output.endswith(".toml"):
        raise BadValue("A recipe is a file that ends in .toml.", asked=f"--output {options.output}")
    if options.output and not budget:
        raise BadValue("A recipe needs a budget.", asked=f"--output {options.output}", try_="--speedup or --damage")
    if options.plot and not options.plot.endswith(".svg"):
        raise BadValue("A front is drawn as SVG.", asked=f"--plot {options.plot}")


def _tested(data: Data) -> tuple[Tensor, Tensor]:
    """The test images and their labels, in random order."""
    import torch

    batches = list(data.testing())
    images, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


def _knows_classes(model: Module, example: Tensor, data: Data, say: Callable[[str], None]) -> bool:
    """Whether a model tells the classes of the data apart; otherwise their labels mean nothing to it."""
    from surgery.model import in_eval

    with in_eval(model):
        classes = model(example).shape[-1]
    if classes != len(data.classes):
        say(f"labels are not used: {data.name} has {len(data.classes)} classes, the model {classes}")
    return bool(classes == len(data.classes))


def _parted(images: Tensor, labels: Tensor | None, count: int) -> tuple[Batches, Batches]:
    """Batches of the first `count` images, or of half of them where there are no more, and of the others."""
    count = count if count < len(images) else len(images) // 2

    def batches(part: slice) -> Batches:
        pictures = images[part].split(_BATCH)
        return list(pictures) if labels is None else list(zip(pictures, labels[part].split(_BATCH), strict=True))

    return batches(slice(count)), batches(slice(count, None))


def _above_0(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _in_words(budget: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in budget.items())
