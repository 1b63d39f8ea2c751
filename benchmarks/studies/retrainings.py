"""Studies of retrainings: a network is trained again and again, and how much the predictions differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import surgery
from benchmarks.conditions import markdown_table, paragraph
from benchmarks.plain_loop import accuracy
from benchmarks.studies.jobs import Row, Write
from benchmarks.studies.perceptron import HIDDEN, Draw, Function, Size, perceptron, slope_spread, small_images, trained
from benchmarks.studies.plots import MARKS
from benchmarks.studies.results import Results
from recipes.data import Pictures
from surgery.predictions.intervals import SURE, Estimate

TOGETHER = 3  # networks of an ensemble
LINEAR = "linear units"  # the family beside which the others are set
COMMON = 0.06  # the learning rate of all arms
RATES = (0.02, COMMON, 0.2)

Pick = Callable[[Sequence[Row]], Row]  # which learning rate of an arm

_MEASURES = (
    "accuracy", "total_variation", "disagreement", "relative", "good_churn", "bad_churn", "ensemble_accuracy",
)  # fmt: skip
_FIGURES = (*(f"{name}{error}" for name in _MEASURES for error in ("", "_error")), "ensembles", "slope_spread")


@dataclass(frozen=True)
class Arm:
    """A network with an activation, called `name`, what differs between its trainings, and their learning rates.

    `varied` is "init" (initial weights), "order" (of the images), "bit" (one bit of one initial weight) or "both" of
    the first two. The arms of one `family` lead step by step from ReLU to a linear network.
    """

    about: str
    function: Function
    name: str
    varied: str = "both"
    family: str = ""
    rates: tuple[float, ...] = RATES
    control: str = ""
    fresh: bool = True

    def draw(self, seed: int, number: int) -> Draw:
        """What is random in the training with this number."""
        first = 100 * seed
        return Draw(
            weights=first + number * (self.varied in ("both", "init")),
            order=first + number * (self.varied in ("both", "order")),
            flipped=number * (self.varied == "bit"),
        )


class Ensemble(nn.Module):
    """Averages the probabilities of networks."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the mean probabilities."""
        return torch.stack([model(images).softmax(1) for model in self.models]).mean(0).log()


def measure(arm: Arm, seed: int, size: Size, device: str, write: Write) -> None:
    """Train the networks of an arm with each learning rate: a row for each, how much their predictions differ.

    Each row has the mean accuracy on the images that were held out, by which a learning rate is chosen. If a training
    diverges, the row has no figures.
    """
    images, model = small_images(size), perceptron(arm.function, small_images(size).train).to(device)
    learnt, held_out, test = (part.to(device) for part in (images.train, images.held_out, images.test))
    for rate in arm.rates:
        models = [trained(model, learnt, arm.draw(seed, k), rate, size.epochs) for k in range(size.networks)]
        figures = _compared(models, test) if _finite(models, test) else dict.fromkeys(_FIGURES, math.nan)
        write({"rate": rate, "held_out": fmean(accuracy(each, held_out) for each in models), **figures})


def _compared(models: Sequence[nn.Module], test: Pictures) -> dict[str, float]:
    batches = list(zip(test.images.split(250), test.labels.split(250), strict=True))
    found = surgery.prediction_difference(models, batches)
    figures = dict[str, float]()
    for name in _MEASURES:
        estimate = getattr(found, name)
        figures |= {name: estimate.mean, f"{name}_error": estimate.error}
    ensembles = [Ensemble(models[k : k + TOGETHER]) for k in range(0, len(models), TOGETHER)]
    spread = fmean(slope_spread(each, test) for each in models)
    return figures | {"ensembles": _disagreement(ensembles, batches), "slope_spread": spread}


@torch.no_grad()
def _finite(models: Sequence[nn.Module], test: Pictures) -> bool:
    return all(bool(model(test.images).isfinite().all()) for model in models)


def _disagreement(models: Sequence[nn.Module], batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How often the most likely classes differ; not a number for a single model."""
    return surgery.prediction_difference(models, batches).disagreement.mean if len(models) > 1 else math.nan


def tables(size: Size, results: Results) -> list[str]:
    """Every activation, the same beside networks that are as linear, and what may differ between trainings."""
    return [
        paragraph(
            f"A perceptron with two hidden layers of {HIDDEN} units, trained {size.networks} times for {size.epochs}"
            f" epochs on {size.images:,} images of 8 x 8 pixels, from initial weights that keep the variance of each"
            f" activation; predictions for {size.test_images:,} test images. Learning rates were chosen on"
            f" {size.held_out:,} other images. All but the spread of slopes in percent, with half of the 95 % interval"
            " (jackknife over networks): accuracy; total variation, disagreement, and the relative difference of the"
            " probabilities of the true class, as means over all pairs; bad churn; the accuracy of the ensemble of all,"
            f" and how much ensembles of {TOGETHER} disagree. The spread of slopes says how nonlinear the trained"
            " networks are: 0 if all units are linear, 0.5 for a ReLU that half of the images activate."
        ),
        "",
        *_functions_table(results),
        "",
        paragraph(
            "Beside networks that are as linear: what a network has if its trained slopes spread as little because a"
            " part of its ReLUs is linear, interpolated between the arms `linear-*`; all at a learning rate of"
            f" {COMMON:g}. Below 0, the activation disagrees less than its linearity explains."
        ),
        "",
        *_linearity_table(results),
        "",
        paragraph("Disagreement / accuracy by the learning rate:"),
        "",
        *_rates_table(results),
        "",
        paragraph(f"Disagreement by what differs between the trainings, at a learning rate of {COMMON:g}:"),
        "",
        *_varied_table(results),
    ]


def best(rows: Sequence[Row]) -> Row:
    """The row of the learning rate with the highest accuracy on the images held out."""
    return max(rows, key=lambda row: row.figures["held_out"])


def common(rows: Sequence[Row]) -> Row:
    """The row of the learning rate that all arms have."""
    return next(row for row in rows if row.figures["rate"] == COMMON)


def estimated(results: Results, arm: str, name: str, pick: Pick = best) -> Estimate:
    """A measure of an arm, as a mean over its seeds."""
    errors = [pick(rows).figures[f"{name}_error"] for rows in results.rows[arm].values()]
    return Estimate(plain(results, arm, name, pick), math.hypot(*errors) / len(errors))


def plain(results: Results, arm: str, name: str, pick: Pick = best) -> float:
    """A figure of an arm, as a mean over its seeds."""
    return fmean(pick(rows).figures[name] for rows in results.rows[arm].values())


def _functions_table(results: Results) -> list[str]:
    head = (
        "activation", "rate", "accuracy", "total variation", "disagreement", "relative", "bad churn",
        "ensemble's accuracy", "ensembles disagree", "spread of slopes", "disagreement - ReLU", "accuracy - ReLU",
    )  # fmt: skip
    cells = []
    for name in _both(results):
        measures = [
            _percent(estimated(results, name, measure))
            for measure in ("accuracy", "total_variation", "disagreement", "relative", "bad_churn", "ensemble_accuracy")
        ]
        differences = [
            _apart(*(estimated(results, arm, measure) for arm in (name, "relu"))) if name != "relu" else ""
            for measure in ("disagreement", "accuracy")
        ]
        cells.append((
            name, f"{plain(results, name, 'rate'):g}", *measures, f"{100 * plain(results, name, 'ensembles'):.1f}",
            f"{plain(results, name, 'slope_spread'):.3f}", *differences,
        ))  # fmt: skip
    return markdown_table(head, cells)


def _linearity_table(results: Results) -> list[str]:
    """Every activation beside a network of as small a spread of slopes, between those with a share of linear units."""
    shares = _families(results).get(LINEAR, [])
    path = sorted((plain(results, arm, "slope_spread", common), arm) for arm in shares)
    spreads = [spread for spread, _ in path]

    def as_linear(spread: float, measure: str) -> Estimate:
        there = [estimated(results, arm, measure, common) for _, arm in path]
        means, errors = [each.mean for each in there], [each.error for each in there]
        return Estimate(*(float(numpy.interp(spread, spreads, values)) for values in (means, errors)))

    cells = []
    for name in _both(results):
        spread = plain(results, name, "slope_spread", common)
        if name in shares or not path or not spreads[0] <= spread <= spreads[-1]:
            continue
        compared = [
            (estimated(results, name, measure, common), as_linear(spread, measure))
            for measure in ("disagreement", "accuracy")
        ]
        found = (cell for ours, theirs in compared for cell in (_percent(ours), _percent(theirs), _apart(ours, theirs)))
        cells.append((name, f"{spread:.3f}", *found))
    head = (
        "activation", "spread of slopes", "disagreement", "if as linear", "difference", "accuracy", "if as linear",
        "difference",
    )  # fmt: skip
    return markdown_table(head, cells)


def _rates_table(results: Results) -> list[str]:
    def cell(name: str, number: int) -> str:
        means = (plain(results, name, figure, itemgetter(number)) for figure in ("disagreement", "accuracy"))
        return " / ".join("diverged" if math.isnan(mean) else f"{100 * mean:.1f}" for mean in means)

    cells = [(name, *(cell(name, number) for number in range(len(RATES)))) for name in _both(results)]
    return markdown_table(("activation", *(f"{rate:g}" for rate in RATES)), cells)


def _varied_table(results: Results) -> list[str]:
    varied = ("both", "init", "order", "bit")
    found: dict[str, dict[str, str]] = {}
    for arm, about in _arms(results):
        found.setdefault(about.name, {})[about.varied] = _percent(estimated(results, arm, "disagreement", common))
    cells = [(name, *(row.get(what, "") for what in varied)) for name, row in found.items() if len(row) > 1]
    return markdown_table(("activation", "both", "initial weights", "order", "one bit"), cells)


def draw(results: Results) -> Figure:
    """Disagreement by accuracy, and by how nonlinear the trained networks are."""
    figure = Figure(figsize=(11.0, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    families = _families(results)
    grouped = {arm for arms in families.values() for arm in arms}
    for axes, name, scale, pick in ((left, "accuracy", 100, best), (right, "slope_spread", 1, common)):
        places = {
            arm: (scale * plain(results, arm, name, pick), estimated(results, arm, "disagreement", pick))
            for arm in _both(results)
        }
        for number, (family, arms) in enumerate(families.items()):
            _path(axes, [places[arm] for arm in arms], fmt=f"{MARKS[number]}-", color=f"C{number}", label=family)
        _path(axes, [place for arm, place in places.items() if arm not in grouped], fmt="x", color="grey")
        for arm, (x, estimate) in places.items():
            axes.annotate(arm, (x, 100 * estimate.mean), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.grid(alpha=0.3)
    left.set_xlabel("accuracy, %, each at its best learning rate")
    left.set_ylabel("disagreement, %")
    right.set_xlabel(f"spread of slopes: how nonlinear, learning rate {COMMON:g}")
    if families:
        left.legend(fontsize=8)
    return figure


def _path(axes: Axes, places: Sequence[tuple[float, Estimate]], **style: Any) -> None:
    x, y = [place for place, _ in places], [100 * estimate.mean for _, estimate in places]
    half = [100 * SURE * estimate.error for _, estimate in places]
    axes.errorbar(x, y, yerr=half, linewidth=1, markersize=5, capsize=2, **style)


def _arms(results: Results) -> Iterator[tuple[str, Arm]]:
    for name in results:
        arm = results.arms[name]
        assert isinstance(arm, Arm)
        yield name, arm


def _both(results: Results) -> list[str]:
    """The arms whose trainings differ in initial weights and order."""
    return [name for name, arm in _arms(results) if arm.varied == "both"]


def _families(results: Results) -> Mapping[str, list[str]]:
    """The arms of each family, from ReLU on."""
    found: dict[str, list[str]] = {}
    for name, arm in _arms(results):
        if arm.family:
            found.setdefault(arm.family, ["relu"] if "relu" in results else []).append(name)
    return found


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:.1f} ± {100 * SURE * value.error:.1f}"


def _apart(ours: Estimate, theirs: Estimate) -> str:
    """The difference of two independent estimates, in points, with its 95 % interval."""
    mean, half = 100 * (ours.mean - theirs.mean), 100 * SURE * math.hypot(ours.error, theirs.error)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
