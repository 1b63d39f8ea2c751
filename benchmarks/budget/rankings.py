"""Which sites to make linear: the choice beside three rankings."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from benchmarks.budget.measuring import measured
from benchmarks.budget.report import Report, Row
from benchmarks.conditions import markdown_table
from recipes.data import cifar10, normalise, shared_folder
from recipes.models.build import build


def rankings(options: argparse.Namespace) -> Report:
    """ResNet-20: which sites become fitted lines, by `choose` and by three rankings, for the same number of ReLUs."""
    data = cifar10(shards=("train-0",))
    assert data.test is not None
    weights = shared_folder() / "weights" / "cifar10_resnet20.safetensors"
    model = build("cifar/resnet20", pretrained=weights).eval()
    rows = []
    for seed in range(options.seeds):
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
        chosen, others = order[: options.calibration], order[-options.reported :]
        images, labels = normalise(data.test.images[chosen]), data.test.labels[chosen]
        chosen_on = list(zip(images.split(250), labels.split(250), strict=True))
        sites = surgery.find_sites(model, images[:2])
        front = surgery.choose(
            model, chosen_on, menu=("affine",), cost="relu_count", fit=True, worst=5.0, points=16, example=images[:2]
        )
        ranked = {
            "evenly spread": evenly(sites),
            "largest first": sorted(sites, key=lambda site: -math.prod(site.shape[1:])),
            "lowest entropy first": [site for site, _ in sorted(entropies(model, sites, images), key=itemgetter(1))],
        }
        for left in (0.8, 0.65, 0.5):
            most = left * front.total
            edits = {"choose": [name for action in front.point(relu_count=most).actions for name in action.sites]}
            edits |= {how: list(map(str, until(listed, most))) for how, listed in ranked.items()}
            networks: dict[str, tuple[nn.Module, str]] = {"all ReLUs": (model, "-")}
            for how, names in edits.items():
                rule = surgery.erase(site=tuple(names), stand_in="affine")
                edited, _ = surgery.transform(model, rule, images[:2])
                networks[how] = (surgery.fit_affine(edited, [batch for batch, _ in chosen_on]), ", ".join(names))
            batches = list(normalise(data.test.images[others]).split(250))
            counts = {how: relus(sites, edits.get(how, [])) for how in networks}
            made = measured(networks, batches, data.test.labels[others], counts, "all ReLUs")
            rows += [replace(row, network=f"{row.network}, {left:.0%}", seed=seed) for row in made[1:]]
    about = (
        f"ResNet-20, CIFAR-10, without training: sites become lines per channel, fitted to {options.calibration} "
        f"test images, until so many of the ReLUs are left; reported on {options.reported} others. The mean over "
        f"{options.seeds} draws of both, and in brackets the least and the most. Evenly spread is erase_relu with "
        "a growing share; the entropy is that of the signs of the inputs, as EASIER ranks layers."
    )
    return Report(about, rows, averaged(rows))


def evenly(sites: surgery.Sites) -> list[surgery.Site]:
    """The sites in the order in which `erase_relu` takes more and more: the last of the blocks, then the first."""
    order: list[surgery.Site] = []
    blocks = len(sites.blocks)
    for location in ("last", "first"):
        for count in range(1, blocks + 1):
            plan = surgery.make_plan(sites, surgery.erase_relu(location, share=count / blocks))  # type: ignore[arg-type]
            order += [edit.site for edit in plan.edits if edit.site not in order]
    return [*order, *(site for site in sites if site not in order)]


def until(listed: Iterable[surgery.Site], most: float) -> list[surgery.Site]:
    """The first sites of a ranking, until at most so many ReLUs are left of all."""
    every = list(listed)
    left, taken = sum(math.prod(site.shape[1:]) for site in every), list[surgery.Site]()
    for site in every:
        if left > most:
            taken.append(site)
            left -= math.prod(site.shape[1:])
    return taken


def relus(sites: Iterable[surgery.Site], erased: Iterable[str]) -> float:
    gone = set(erased)
    return sum(math.prod(site.shape[1:]) for site in sites if str(site) not in gone)


def entropies(model: nn.Module, sites: surgery.Sites, images: Tensor) -> list[tuple[surgery.Site, float]]:
    """For each site the entropy of the sign of its input, in bits, the mean over its elements."""
    positive: dict[Any, Tensor] = {}

    def look(key: Any, output: Tensor) -> None:
        positive[key] = positive.get(key, torch.zeros(output.shape[1:])) + (output > 0).sum(0)

    for batch in images.split(250):
        with torch.no_grad(), surgery.observing(model, look):
            model(batch)
    found = []
    for site in sites:
        share = (positive[site.key].double() / len(images)).clamp(1e-9, 1 - 1e-9)
        bits = -(share * share.log2() + (1 - share) * (1 - share).log2())
        found.append((site, float(bits.mean())))
    return found


def averaged(rows: Sequence[Row]) -> list[str]:
    """A row for each network of several seeds: the means, and the least and the most."""
    cells = []
    for name in dict.fromkeys(row.network for row in rows):
        own = [row for row in rows if row.network == name]
        lost, kl = [row.lost for row in own], [row.kl for row in own]
        cells.append(
            (name, f"{sum(row.milliseconds for row in own) / len(own):,.0f}",
             f"{sum(lost) / len(own):.2f} ({min(lost):.2f} to {max(lost):.2f})",
             f"{sum(kl) / len(own):.4f} ({min(kl):.4f} to {max(kl):.4f})")
        )  # fmt: skip
    return markdown_table(("sites by, ReLUs left", "ReLUs", "points lost", "KL"), cells)
