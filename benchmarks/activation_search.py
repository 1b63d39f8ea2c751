"""Functions of one core unit in a small network: is Swish among the best, and which engine finds those soonest?

SURGERY_DATA=FOLDER python -m benchmarks.activation_search

An MLP 192-256-256-10 on CIFAR-10 averaged to 8 x 8, betas fixed at 1, weights initialised to the gain of each function.
First every distinct function is trained briefly, with one seed; then the best of them for longer, with several seeds.
The engines then search in the table of the brief trainings, instead of training again. By default the functions are
made of 14 unary ones, without those that explode, differ little from others, or are others where betas are fixed;
`--space one-core` takes all 25.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import optuna
import torch
from optuna import Trial, TrialPruned
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.conditions import RESULTS, command_line, conditions
from recipes.activation_search.engines import ENGINES, Engine, sampler_of
from recipes.activation_search.front import times_of
from recipes.activation_search.objective import REFERENCES
from recipes.activation_search.space import SPACES, Space
from recipes.data.builtin import cifar10
from surgery.activations import build
from surgery.activations.expressions.equality import fingerprint
from surgery.activations.expressions.notation import parse

_UNARY = (
    "x",
    "neg",
    "abs",
    "square",
    "beta",
    "sin",
    "cos",
    "tanh",
    "atan",
    "relu",
    "min0",
    "sigmoid",
    "softplus",
    "gauss",
)
_SPACES = {"fourteen": Space("fourteen", unary=_UNARY), "one-core": SPACES["one-core"]}
RELU, SWISH = REFERENCES
_WIDTHS = (192, 256, 256, 10)
_TRAIN, _CHOOSE, _REPORT = 4000, 3000, 3000  # images
_BATCH, _RATE, _MOMENTUM = 128, 0.05, 0.9
_AFTER = (25, 50, 100, 200, 400)  # trainings
_SEEDS = 5  # of the engines


@dataclass(frozen=True)
class Row:
    """One training: accuracies on the images that choose and on others, 0 where the loss was not finite."""

    function: str
    epochs: int
    seed: int
    accuracy: float
    reported: float


@dataclass(frozen=True)
class Images:
    """Standardised images (N, 192) and their labels: to train on, to choose on, to report on."""

    parts: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def load(cls) -> Images:
        """CIFAR-10, averaged to 8 x 8 pixels."""
        whole = cifar10()
        assert whole.train is not None and whole.test is not None
        order = torch.randperm(len(whole.test.labels), generator=torch.Generator().manual_seed(0))
        chosen, others = order[:_CHOOSE], order[_CHOOSE : _CHOOSE + _REPORT]
        train = _averaged(whole.train.images[:_TRAIN])
        mean, deviation = train.mean(0), train.std(0)
        pairs = [(train, whole.train.labels[:_TRAIN])]
        pairs += [(_averaged(whole.test.images[places]), whole.test.labels[places]) for places in (chosen, others)]
        return cls(tuple(((images - mean) / deviation, labels) for images, labels in pairs))


def _averaged(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 4).flatten(1)


def gain(function: nn.Module) -> float:
    """The factor that keeps the mean square of standard normal numbers."""
    with torch.no_grad():
        square = function(torch.randn(100_000, generator=torch.Generator().manual_seed(0))).square().mean().item()
    return 1 / math.sqrt(square) if 0 < square < math.inf else 1.0


def network(name: str, seed: int) -> nn.Sequential:
    """The MLP with this function, weights normal and scaled to its gain."""
    function = build(name, learn=False) if parse(name).betas else build(name)
    generator, layers = torch.Generator().manual_seed(seed), list[nn.Module]()
    for number, (entering, leaving) in enumerate(pairwise(_WIDTHS)):
        linear = nn.Linear(entering, leaving)
        scale = (gain(function) if number else 1.0) / math.sqrt(entering)
        with torch.no_grad():
            linear.weight.normal_(0, scale, generator=generator)
            linear.bias.zero_()
        layers += [linear, function]
    return nn.Sequential(*layers[:-1])


def train(name: str, epochs: int, seed: int, images: Images) -> Row:
    """Train the MLP with this function by SGD, at a rate that falls to 0 as a cosine."""
    model, (pictures, labels) = network(name, seed), images.parts[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM)
    steps = epochs * (len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=order)[: steps // epochs * _BATCH].split(_BATCH):
            loss = F.cross_entropy(model(pictures[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not loss.isfinite():
            return Row(name, epochs, seed, 0.0, 0.0)
    with torch.no_grad():
        found = [(model(part).argmax(1) == truth).float().mean().item() for part, truth in images.parts[1:]]
    return Row(name, epochs, seed, *(round(accuracy, 6) for accuracy in found))


class Trainings:
    """All trainings so far, in a CSV file that grows by a line for each."""

    def __init__(self, file: Path, images: Images) -> None:
        self.file, self.images = file, images
        self.rows: dict[tuple[str, int, int], Row] = {}
        if file.exists():
            with file.open(newline="", encoding="utf-8") as stream:
                for line in csv.DictReader(stream):
                    self._keep(Row(line["function"], int(line["epochs"]), int(line["seed"]), float(line["accuracy"]),
                                   float(line["reported"])))  # fmt: skip

    def __call__(self, name: str, epochs: int, seed: int) -> Row:
        """The training of this function, which is made unless it is there."""
        if (row := self.rows.get((name, epochs, seed))) is None:
            row = self._keep(train(name, epochs, seed, self.images))
            new = not self.file.exists()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if new:
                    writer.writerow(field.name for field in fields(Row))
                writer.writerow(getattr(row, field.name) for field in fields(Row))
        return row

    def _keep(self, row: Row) -> Row:
        self.rows[row.function, row.epochs, row.seed] = row
        return row


def functions(space: Space) -> list[str]:
    """Every distinct function, in random order, ReLU and Swish under the names of the references first."""
    names = {fingerprint(parse(name), learn=False): name for name in REFERENCES}
    listed = [str(space.expression(chosen)) for chosen in space.distinct(learn=False)]
    found = {fingerprint(parse(name), learn=False): name for name in listed}
    others = [name for key, name in found.items() if key not in names]
    random.Random(0).shuffle(others)
    return [*(name for key, name in names.items() if key in found), *others]


def survey(trainings: Trainings, epochs: int, names: Sequence[str]) -> list[Row]:
    """The brief trainings, the best first."""
    rows = list[Row]()
    for number, name in enumerate(names):
        rows.append(trainings(name, epochs, 0))
        if number % 100 == 0:
            print(f"{number} of {len(names)} functions", flush=True)
    return sorted(rows, key=lambda row: -row.accuracy)


def search(space: Space, engine: Engine, seed: int, table: dict[str, float], most: int) -> list[float]:
    """The best accuracy after each function of the table that an engine met."""
    seen: dict[str, float] = {}
    sampler = sampler_of(engine, space, False, seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: Trial) -> float:
        chosen = {slot: trial.suggest_categorical(slot, names) for slot, names in space.slots.items()}
        key = fingerprint(space.expression(chosen), learn=False)
        if key not in table:
            raise TrialPruned
        seen.setdefault(key, table[key])
        if len(seen) >= most:
            study.stop()
        return table[key]

    study.optimize(objective, n_trials=min(10 * most, space.size))
    return list(np.maximum.accumulate(list(seen.values())))


def race(space: Space, table: dict[str, float]) -> Iterator[list[str]]:
    """For every engine the best accuracy it has after so many trainings, and its rank in the table."""
    ranked = sorted(table.values(), reverse=True)
    for engine in ENGINES:
        curves = [search(space, engine, seed, table, min(_AFTER[-1], len(table))) for seed in range(_SEEDS)]
        cells = []
        for after in (count for count in _AFTER if count <= len(table)):
            best = [curve[min(after, len(curve)) - 1] for curve in curves]
            ranks = sorted(1 + sum(other > value for other in ranked) for value in best)
            cells.append(f"{100 * fmean(best):.1f} ({ranks[len(ranks) // 2]})")
        yield ["random" if engine == "exhaustive" else engine, *cells]


def line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def finalists(trainings: Trainings, names: Sequence[str], epochs: int, seeds: int) -> list[list[str]]:
    """A line for each of the best: accuracies over the seeds, the difference to ReLU, and the time of one call."""
    rows = {name: [trainings(name, epochs, seed) for seed in range(seeds)] for name in names}
    times = times_of(names)
    lines = []
    for name, found in sorted(rows.items(), key=lambda item: -fmean(row.accuracy for row in item[1])):
        chosen, others = ([getattr(row, part) for row in found] for part in ("accuracy", "reported"))
        apart = [row.reported - relu.reported for row, relu in zip(found, rows[RELU], strict=True)]
        error = stdev(apart) / math.sqrt(seeds) if seeds > 1 else math.nan
        difference = "" if name == RELU else f"{100 * fmean(apart):+.2f} ± {100 * error:.2f}"
        shown = [f"`{name}`", f"{100 * fmean(chosen):.2f}", f"{100 * fmean(others):.2f}", difference]
        lines.append([*shown, f"{times[name]:.2f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=list(_SPACES), default="fourteen")
    parser.add_argument("--functions", type=int, help="only so many of them")
    parser.add_argument("--epochs", type=int, default=2, help="of a brief training")
    parser.add_argument("--long-epochs", type=int, default=10, help="of those of the best")
    parser.add_argument("--best", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="of the long trainings")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainings = Trainings(options.results / "activation_search.csv", Images.load())
    space = _SPACES[options.space]
    names = functions(space)[: options.functions]
    rows = survey(trainings, options.epochs, names)
    rank = {row.function: place for place, row in enumerate(rows, 1)}
    best = list(dict.fromkeys([*(row.function for row in rows[: options.best]), *REFERENCES]))
    long = finalists(trainings, best, options.long_epochs, options.seeds)
    table = {fingerprint(parse(row.function), learn=False): row.accuracy for row in rows}
    text = [
        "# Functions of one core unit",
        "",
        f"{len(rows):,} of {len(functions(space)):,} distinct functions trained for {options.epochs} epochs; "
        f"{sum(row.accuracy == 0 for row in rows)} diverged. By accuracy on {_CHOOSE:,} test images Swish is number "
        f"{rank[SWISH]}, ReLU number {rank[RELU]}. The best {options.best} and these two, trained for "
        f"{options.long_epochs} epochs with {options.seeds} seeds; the difference to ReLU is paired, on {_REPORT:,} "
        f"other images, with its standard error; ms are those of 262,144 numbers:",
        "",
        line(["function", "rank before", "accuracy", "on others", "minus ReLU", "ms"]),
        line(["---", "---:", "---:", "---:", "---:", "---:"]),
        *(line([cells[0], rank.get(cells[0].strip("`"), ""), *cells[1:]]) for cells in long),
        "",
        "The best accuracy after so many brief trainings, the mean of five searches, and in brackets its median rank:",
        "",
        line(["engine", *(count for count in _AFTER if count <= len(table))]),
        line(["---", *("---:" for count in _AFTER if count <= len(table))]),
        *(line(cells) for cells in race(space, table)),
        "",
        *conditions(command_line(parser, options, "activation_search"), 0),
        "",
    ]
    page = options.results / "activation_search.md"
    page.write_text("\n".join(text), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
