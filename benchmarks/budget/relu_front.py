"""How many ReLUs of ResNet-56 can be lines, without training, and what trained networks of the literature lose."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import surgery
from benchmarks.budget.measuring import measured
from benchmarks.budget.pictures import HELD_OUT, batched, split
from benchmarks.budget.rankings import relus
from benchmarks.budget.report import Report
from benchmarks.conditions import markdown_table
from recipes.data import cifar10, normalise, shared_folder
from recipes.models.build import build


@dataclass(frozen=True)
class Point:
    """A network with fewer ReLUs: how many are left, in how many of its calls, and its accuracy in percent."""

    network: str
    relus: float
    of: float
    sites: str
    accuracy: float
    lost: float
    error: float | None = None


# CIFAR-10. SNL's counts are those of single elements (its figure, the largest one as the base); EASIER removes whole
# calls, training for 160 epochs before each, and does not say how many elements are left.
_SNL = ((500, 95.3), (300, 95.1), (181, 94.8), (150, 94.3), (100, 93.5), (50, 92.3), (25, 90.9))
_EASIER = ((0, 92.47), (4, 92.47), (8, 92.10), (10, 89.94), (12, 84.52))
PUBLISHED = (
    *(Point("SNL, ResNet-18, trained", 1000 * count, 557_056, "", top, _SNL[0][1] - top) for count, top in _SNL),
    *(Point("EASIER, ResNet-18, trained", 0, 0, f"{17 - gone} of 17", top, _EASIER[0][1] - top)
      for gone, top in _EASIER),
)  # fmt: skip


def relu_front(options: argparse.Namespace) -> Report:
    """ResNet-56: sites become lines, fitted and chosen on 1,000 test images, reported on the other 9,000."""
    test = cifar10(shards=("train-0",)).test
    assert test is not None
    weights = shared_folder() / "weights" / "cifar10_resnet56.safetensors"
    model = build("cifar/resnet56", pretrained=str(weights)).eval()
    held, others = split(test, HELD_OUT)
    chosen_on = [(normalise(part.images), part.labels) for part in batched(held, 250)]
    example = chosen_on[0][0][:2]
    sites = surgery.find_sites(model, example)
    front = surgery.choose(
        model, chosen_on, menu=("affine",), cost="relu_count", fit=True, worst=options.worst, points=options.points,
        example=example, path=options.journal, progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    networks = {"all ReLUs": (model, "-")}
    gone: dict[str, list[str]] = {"all ReLUs": []}
    for left in options.left:
        names = [name for action in front.point(relu_count=left * front.total).actions for name in action.sites]
        edited, _ = surgery.transform(model, surgery.erase(site=tuple(names), stand_in="affine"), example)
        kept = f"{left:.0%}"
        networks[kept] = (surgery.fit_affine(edited, [images for images, _ in chosen_on]), ", ".join(names))
        gone[kept] = names
    counts = {name: relus(sites, names) for name, names in gone.items()}
    rows = measured(networks, list(normalise(others.images).split(250)), others.labels, counts, "all ReLUs")
    points = [
        Point("ResNet-56, lines, not trained", counts[row.network], front.total,
              f"{len(sites) - len(gone[row.network])} of {len(sites)}", 100 * row.accuracy, row.lost, row.error)
        for row in rows
    ]  # fmt: skip
    about = (
        f"ResNet-56, CIFAR-10: sites become lines per channel, fitted to {HELD_OUT} test images and chosen by KL on "
        f"them, without any training; reported on the other {len(others.labels):,}. Beside it what SNL and EASIER "
        "publish for another network, which they train for hundreds of epochs: context, no comparison."
    )
    listed = [*points, *PUBLISHED]
    return Report(about, listed, _table(listed))


def _table(points: list[Point]) -> list[str]:
    cells = [
        (point.network, *((f"{point.relus:,.0f}", f"{point.relus / point.of:.0%}") if point.of else ("-", "-")),
         point.sites or "-", f"{point.accuracy:.2f}",
         f"{point.lost:.2f}" + (f" ({point.error:.2f})" if point.error is not None else ""))
        for point in points
    ]  # fmt: skip
    return markdown_table(("network", "ReLUs", "left", "calls left", "top-1", "lost"), cells)
