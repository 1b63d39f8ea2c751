"""What a budget costs: networks that `surgery.choose` made faster, without training, after training, and merged.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.budget --study lite0      # chosen, not trained: 500 pictures for each half
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study resnet56   # chosen, then trained for three epochs
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study rankings   # the choice beside three others, not trained
    python -m benchmarks.budget --study structures                     # DepthShrinker's six, merged, random weights
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import recipes
import surgery
from benchmarks import deploy_speed
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from benchmarks.imagenet_pretrained import KNOWN, NAME, halves, trained
from recipes.data import Pictures, cifar10, normalise, shared_folder
from recipes.format.parse import Recipe
from recipes.format.settings import Finetune
from recipes.models.build import build
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import FILE, TARGET
from surgery.deploy.written import written

HELD_OUT = 1000  # of the 10,000 test images: to choose on

# DepthShrinker's merged blocks, from its published configurations: 1 is the first depthwise-separable block.
STRUCTURES = {
    "A": (2, 3, 6, 8, 10, 13), "B": (2, 3, 6, 7, 8, 9, 10, 13), "C": (2, 3, 5, 6, 7, 8, 9, 10, 13),
    "D": (2, 3, 6, 7, 8, 9, 10, 11, 12, 13), "E": (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13), "F": tuple(range(2, 18)),
}  # fmt: skip
WANTED = {"A": 2.4, "B": 2.5, "C": 2.6, "D": 2.6, "E": 2.6, "F": 3.2}


@dataclass(frozen=True)
class Row:
    """One network: what was done to it, its time beside the unedited one, and its accuracy."""

    network: str
    edits: str
    milliseconds: float
    speedup: float
    accuracy: float
    lost: float
    error: float
    kl: float
    seed: int = 0


class Took:
    """How long a choice took, in words; nothing where it went on from a journal."""

    def __init__(self, journal: str | None) -> None:
        self.fresh = journal is None or not Path(journal).exists()
        self.started = time.monotonic()

    def __str__(self) -> str:
        return f" in {time.monotonic() - self.started:.0f} s" if self.fresh else ""


def folded(model: nn.Module, image: Tensor) -> nn.Module:
    """The network as it is deployed: linear neighbours merged, batch norms among them."""
    return surgery.merge(model.eval(), example=image)[0].to(memory_format=torch.channels_last)


def fastest(networks: Mapping[str, nn.Module], images: Tensor, turns: int) -> dict[str, float]:
    """Milliseconds of processor time of each network, the minimum of so many turns; all take turns."""
    images = images.contiguous(memory_format=torch.channels_last)
    best = dict.fromkeys(networks, math.inf)
    with torch.inference_mode():
        for turn in range(turns + 2):
            for name, network in networks.items():
                started = time.process_time()
                network(images)
                if turn >= 2:
                    best[name] = min(best[name], 1000 * (time.process_time() - started))
    return best


def fastest_in_onnxruntime(networks: Mapping[str, nn.Module], images: Tensor, turns: int) -> dict[str, float]:
    """The same in ONNX Runtime."""
    images, sessions = images.contiguous(), {}
    for name, network in networks.items():
        with TemporaryDirectory() as scratch:
            plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
            with written(network_of(plain, images), TARGET, Path(scratch, "net")) as files:
                sessions[name] = deploy_speed.session(files.folder / FILE)
    return deploy_speed.fastest(sessions, images, turns)


@torch.no_grad()
def log_shares(model: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    return torch.cat([model.eval()(batch) for batch in batches]).log_softmax(1)


def measured(
    networks: Mapping[str, tuple[nn.Module, str]],
    batches: Sequence[Tensor],
    labels: Tensor,
    times: Mapping[str, float],
    prefer: str,
) -> list[Row]:
    """A row for each network and what was done to it, compared with the one called `prefer`."""
    before = log_shares(networks[prefer][0], batches)
    rows = []
    for name, (network, edits) in networks.items():
        after = log_shares(network, batches)
        each = 100 * ((before.argmax(1) == labels).double() - (after.argmax(1) == labels).double())
        kl = (before.exp() * (before - after)).sum(1).mean()
        right = float((after.argmax(1) == labels).double().mean())
        rows.append(
            Row(name, edits, times[name], times[prefer] / times[name], right, float(each.mean()),
                float(each.std()) / math.sqrt(len(each)), float(kl))
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def in_numbers(actions: Sequence[Any]) -> str:
    """How many actions of each kind: "2 drop, 1 affine"."""
    kinds = dict.fromkeys(action.what for action in actions)
    return ", ".join(f"{sum(action.what == kind for action in actions)} {kind}" for kind in kinds)


def in_words(actions: Sequence[Any]) -> str:
    return ", ".join(map(str, actions)) or "-"


def lite0(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """EfficientNet-Lite0: chosen on pictures of odd rank, reported on those of even rank, without training."""
    model = trained().to(memory_format=torch.channels_last)
    odd, even = halves(model, options.images)
    chosen_on = [(images, labels) for images, labels in zip(odd.images.split(50), odd.labels.split(50), strict=True)]
    image = even.images[:1].contiguous(memory_format=torch.channels_last)
    took = Took(options.journal)
    front = surgery.choose(
        model, chosen_on, menu=options.menu, example=image, path=options.journal, worst=options.worst,
        points=options.points, screen=options.screen, runtime=options.runtime,
        progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    spent = str(took)
    print(front)
    networks = {"unedited, folded": (folded(model, image), "-")}
    for point in front.best[::-1][1:]:
        edited, _ = surgery.transform(model, list(point.rules), image)
        networks[f"{in_numbers(point.actions)}, {point.by}"] = (folded(edited, image), in_words(point.actions))
    alone = {name: network for name, (network, _) in networks.items()}
    timed = fastest_in_onnxruntime if options.runtime == "onnxruntime" else fastest
    times = timed(alone, image, options.turns)
    rows = measured(networks, even.images.split(50), even.labels, times, next(iter(networks)))
    if not options.images:
        assert round(rows[0].accuracy * len(even.labels)) == KNOWN, "a wrong model, or wrong data"
    text = paragraph(
        f"{NAME}, batch 1 at 224 pixels, {options.runtime}, one thread, batch norms folded everywhere; chosen on "
        f"{len(odd.labels)} pictures of odd rank{spent}: {len(front.candidates)} actions, each alone on "
        f"{options.screen} pictures, then together on all. Reported on {len(even.labels)} of even rank, without "
        "training. Lost are points of top-1 with the standard error of the paired difference. The pictures are "
        "probably among those the network was trained on."
    )
    return rows, [text]


def resnet56(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """ResNet-56: chosen on 1,000 test images, trained for three epochs, reported on the other 9,000."""
    data = cifar10(shards=("train-0",))
    assert data.test is not None
    weights = shared_folder() / "weights" / "cifar10_resnet{}.safetensors"
    model = build("cifar/resnet56", pretrained=str(weights).format(56)).eval()
    held, others = split(data.test, HELD_OUT)
    chosen_on = [(normalise(part.images), part.labels) for part in batched(held, 250)]
    image = normalise(held.images[: options.batch_size])
    took = Took(options.journal)
    front = surgery.choose(
        model, chosen_on, menu=("drop",), cost="macs", example=image, path=options.journal, worst=options.worst,
        points=1, progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    spent = str(took)
    print(front)
    by_count = {len(point.actions): point for point in front.points if point.by != "exact"}
    networks: dict[str, tuple[nn.Module, str]] = {"ResNet-56": (folded(model, image), "-")}
    for count in options.blocks:
        point = by_count[count]
        bare, _ = surgery.transform(model, list(point.rules), image)
        networks[f"{count} blocks dropped, not trained"] = (folded(bare, image), in_words(point.actions))
        tuned = finetuned(point.rules, Path(options.runs) / f"resnet56-{count}", str(weights).format(56), options)
        networks[f"{count} blocks dropped, trained"] = (folded(tuned, image), in_words(point.actions))
    for depth in (44, 32):
        smaller = build(f"cifar/resnet{depth}", pretrained=str(weights).format(depth)).eval()
        networks[f"ResNet-{depth}, trained as published"] = (folded(smaller, image), "-")
    times = fastest({name: network for name, (network, _) in networks.items()}, image, options.turns)
    batches = [normalise(part.images) for part in batched(others, 250)]
    rows = measured(networks, batches, others.labels, times, "ResNet-56")
    text = paragraph(
        f"CIFAR-10, batch {options.batch_size}, channels_last, one thread, batch norms folded everywhere; chosen by KL "
        f"on {HELD_OUT} test images{spent}, with multiply-adds as the cost (all blocks have the same), "
        f"reported on the other {len(others.labels)}. Trained: {options.epochs} epochs of distillation from the "
        "unedited network on the 50,000 training images, by `recipes.run`, one seed."
    )
    return rows, [text]


def finetuned(rules: Sequence[surgery.Rule], folder: Path, weights: str, options: argparse.Namespace) -> nn.Module:
    """The edited network, trained as a recipe trains; a finished run in the folder is read again."""
    training = Finetune(epochs=options.epochs, lr=options.lr, distill=True, channels_last=True)
    recipe = Recipe("budget", tuple(rules), "ResNet-56 under a budget", finetune=training)
    if not (folder / "result.json").exists():
        recipes.run(
            recipe, "cifar/resnet56", "cifar10", folder, pretrained=weights, workers=0, seed=options.seed,
            resume=folder.exists(),
        )  # fmt: skip
    return recipes.load_model(folder).eval()


def split(pictures: Pictures, count: int) -> tuple[Pictures, Pictures]:
    """So many pictures, evenly spread over the classes that they are sorted by, and the others."""
    every = len(pictures) // count
    chosen = torch.arange(len(pictures)) % every == 0
    return (Pictures(pictures.images[chosen], pictures.labels[chosen]),
            Pictures(pictures.images[~chosen], pictures.labels[~chosen]))  # fmt: skip


def batched(pictures: Pictures, size: int) -> Iterator[Pictures]:
    for images, labels in zip(pictures.images.split(size), pictures.labels.split(size), strict=True):
        yield Pictures(images, labels)


def structures(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """DepthShrinker's six structures on MobileNetV2 1.4: whole inverted residuals merged into 3 x 3 convolutions."""
    torch.manual_seed(options.seed)
    images = torch.randn(options.batch_size, 3, 224, 224)
    image = images[:2]
    base = realistic(build("timm/mobilenetv2_140").eval(), options.seed)
    networks = {"unedited": folded(base, image)}
    errors = {"unedited": 0.0}
    for name, merged in STRUCTURES.items():
        linear = with_linear_blocks(base, merged, image)
        network, report = surgery.merge(linear, example=image)
        networks[name] = network.to(memory_format=torch.channels_last)
        errors[name] = report.error
        print(name, report.macs, report.error, flush=True)
    times = fastest(networks, images, options.turns)
    rows = [
        Row(name, in_words(STRUCTURES.get(name, ())), times[name], times["unedited"] / times[name], math.nan, math.nan,
            errors[name], math.nan)
        for name in networks
    ]  # fmt: skip
    text = paragraph(
        f"MobileNetV2 1.4 of timm, random weights, batch {options.batch_size} at 224 pixels, channels_last, one "
        "thread, batch norms folded everywhere. Merged blocks end in a ReLU6, as in DepthShrinker. The error is the "
        "largest difference of the merged network's outputs from those of the linear one over the largest output."
    )
    return rows, [text]


def realistic(model: nn.Module, seed: int) -> nn.Module:
    """The network with norms that are neither the identity nor alike, as in trained ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2),
                                     (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):  # fmt: skip
                assert value is not None
                with torch.no_grad():
                    value.copy_(torch.empty(value.shape).uniform_(low, high, generator=generator))
    return model


def with_linear_blocks(model: nn.Module, merged: Sequence[int], image: Tensor) -> nn.Module:
    """The network with these blocks linear and padded at their first convolution, and a ReLU6 behind each."""
    rectified = copy.deepcopy(model)
    paths = [path for path, module in model.named_modules() if type(module).__name__ in _BLOCKS]
    chosen = [paths[number - 1] for number in merged]
    for path in chosen:
        parent, _, name = path.rpartition(".")
        stage = rectified.get_submodule(parent)
        assert isinstance(stage, nn.Sequential)
        stage[int(name)] = nn.Sequential(OrderedDict(block=stage[int(name)], act=nn.ReLU6()))
    inside = [f"{path}.block" for path in chosen]
    rules = [surgery.erase(site=tuple(f"{path}.*" for path in inside)), surgery.move_padding(block=tuple(inside))]
    edited, _ = surgery.transform(rectified, rules, image)
    return edited


def rankings(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
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
    return rows, [
        paragraph(
            f"ResNet-20, CIFAR-10, without training: sites become lines per channel, fitted to {options.calibration} "
            f"test images, until so many of the ReLUs are left; reported on {options.reported} others. The mean over "
            f"{options.seeds} draws of both, and in brackets the least and the most. Evenly spread is erase_relu with "
            "a growing share; the entropy is that of the signs of the inputs, as EASIER ranks layers."
        )
    ]


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


_BLOCKS = ("DepthwiseSeparableConv", "InvertedResidual")
STUDIES = {"lite0": lite0, "resnet56": resnet56, "structures": structures, "rankings": rankings}


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table, without columns that say nothing."""
    head = ("network", "ms", "speed-up", "top-1", "lost", "KL")
    cells = [
        (row.network, f"{row.milliseconds:.2f}", f"{row.speedup:.2f}", f"{100 * row.accuracy:.2f}",
         f"{row.lost:.2f} ({row.error:.2f})", f"{row.kl:.4f}")
        for row in rows
    ]  # fmt: skip
    if any(row.seed for row in rows):
        return averaged(rows)
    if math.isnan(rows[0].accuracy):
        head = ("structure", "merged blocks", "ms", "speed-up", "wanted", "error")
        cells = [
            (row.network, row.edits, f"{row.milliseconds:.1f}", f"{row.speedup:.2f}",
             f"{WANTED.get(row.network, 1):.1f}", f"{row.error:.1e}")
            for row in rows
        ]  # fmt: skip
    return markdown_table(head, cells)


def edits_of(rows: Sequence[Row]) -> list[str]:
    """What was done to each network, where the table does not say it."""
    told = any(row.seed for row in rows) or math.isnan(rows[0].accuracy)
    return [] if told else [f"- {row.network}: {row.edits}" for row in rows if row.edits != "-"]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=list(STUDIES), required=True)
    parser.add_argument("--menu", nargs="+", default=["drop"], help="what lite0 may do")
    parser.add_argument("--runtime", choices=("eager", "onnxruntime"), default="eager", help="what lite0 is timed in")
    parser.add_argument("--screen", type=int, default=100, help="pictures for single edits of lite0")
    parser.add_argument("--worst", type=float, default=0.5, help="no search goes on behind this KL")
    parser.add_argument("--points", type=int, default=8, help="of the exact front to measure")
    parser.add_argument("--images", type=int, help="of the 1,000 pictures (default: all)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 13], help="how many ResNet-56 is to lose")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=8, help="images to time")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="draws of images to rank by")
    parser.add_argument("--calibration", type=int, default=500, help="images to rank by")
    parser.add_argument("--reported", type=int, default=2000, help="images to report rankings on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", help="file to keep measurements in, and to go on from")
    parser.add_argument("--runs", default="out/budget", help="folder of the trainings, and to go on from")
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, text = STUDIES[options.study](options)
    lines = [
        f"# Under a budget: {options.study}", "", *text, "", *table(rows), "",
        *edits_of(rows), "",
        *conditions(command_line(parser, options, "budget"), seed=options.seed), "",
    ]  # fmt: skip
    name = f"budget_{options.study}" + ("_onnxruntime" if options.runtime == "onnxruntime" else "")
    print(write_results(options.results, name, lines, rows))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
