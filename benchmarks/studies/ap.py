"""Does AP help once masks hold? ResNet-20 on CIFAR-10, pruned in rounds, with and without it, and with its controls.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.ap --protocol reduced
"""

from __future__ import annotations

from functools import partial
from itertools import count, islice
from pathlib import Path

from torch import Tensor, nn

import pruning
from benchmarks.conditions import RESULTS, conditions, markdown_table
from benchmarks.studies.jobs import Jobs, Protocol, Write, arguments, by_name
from benchmarks.studies.spread import difference, mean_and_deviation
from pruning.masks import Held
from pruning.round import Pruner
from recipes.data import open_data, shared_folder
from recipes.finetune import accuracy, finetune
from recipes.models import build
from recipes.settings import Finetune

PROTOCOLS = by_name(
    Protocol("smoke", images=256, test_images=250, epochs=1, rounds=1, seeds=1),
    Protocol("reduced", images=8192, test_images=10_000, epochs=1, rounds=10, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, rounds=15, seeds=5),
)
SHARE, AP_SHARE = 0.2, 0.02
LOOKED_AT = 8  # training batches: for dead neurons, for AP by dead units, for the statistics of norms

# The most telling first: what is compared, AP as published, its sign and its choice; then hosts and repairs.
ARMS = (
    "none", "ap", "ap-positive", "random", "magnitude", "ap-dead", "recalibrated", "lamp", "lamp-ap",
)  # fmt: skip
ABOUT = {
    "none": "global magnitude, 20 % a round",
    "ap": "18 % by magnitude, 2 % by AP as published: negative weights that moved least",
    "ap-positive": "the same among positive weights",
    "random": "18 % by magnitude, 2 % at random",
    "magnitude": "18 % by magnitude, then 2 % by magnitude: `none` in two steps",
    "ap-dead": "18 % by magnitude, 2 % by AP among the negative weights that hold dead units down",
    "recalibrated": "`none`, with batch norms estimated anew after each cut",
    "lamp": "LAMP, 20 % a round",
    "lamp-ap": "18 % by LAMP, 2 % by AP as published",
}


def pruner_of(arm: str, batches: list[Tensor], seed: int) -> Pruner:
    """The pruner of an arm."""
    host = pruning.lamp() if arm.startswith("lamp") else pruning.global_magnitude()
    if arm in ("none", "recalibrated", "lamp"):
        return host
    if arm in ("ap", "lamp-ap"):
        return pruning.with_ap(host, AP_SHARE)
    if arm == "ap-positive":
        return pruning.with_ap(host, AP_SHARE, among="positive")
    if arm == "ap-dead":
        # Where too few weights hold dead units down, the host cuts the rest.
        return pruning.with_ap(host, AP_SHARE, by="dead", batches=batches, shortfall="host")
    if arm == "random":
        return pruning.with_ap(host, AP_SHARE, among="any", by="random", seed=seed)
    return pruning.with_ap(host, AP_SHARE, among="any", by="magnitude")


def measure(arm: str, seed: int, write: Write, protocol: Protocol, device: str) -> None:
    """One arm with one seed: a row after the training before the first cut, and one after that of every round.

    Every arm begins with the same trained weights and the same images; the seed decides on their order and
    augmentation. Nothing is rewound.
    """
    data = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
    options = Finetune(epochs=protocol.epochs, batch_size=128, lr=0.02, weight_decay=1e-4)
    model = build("cifar/resnet20", pretrained=shared_folder() / "weights" / "cifar10_resnet20.safetensors").to(device)
    looked_at = data.training(Finetune(batch_size=128), seed=seed, device=device)
    batches = [images for images, _ in islice(looked_at.epoch(0), LOOKED_AT)]
    size, number = pruning.Masks.full(model).size, count()

    def train(model: nn.Module, held: Held) -> None:
        round_ = next(number)
        finetune(model, data.training(options, seed=100 * seed + round_, device=device), options, held=held, seed=seed)
        dead = pruning.dead_neurons(model, batches)
        write({
            "round": round_, "living": pruning.Masks.of(model).alive / size,
            "accuracy": accuracy(model, data.testing(device=device)), "dynamic": dead.dynamic_share,
            "static": dead.static_share,
        })  # fmt: skip

    pruning.run_rounds(
        model, train, pruner_of(arm, batches, seed), SHARE, protocol.rounds, rewind=None,
        recalibrate=batches if arm == "recalibrated" else None,
    )  # fmt: skip


def table(jobs: Jobs) -> list[str]:
    """Accuracies by living share, and each arm's difference to pruning without AP at the end."""
    none = jobs.rows("none")
    rounds = sorted({0, *range(0, jobs.protocol.rounds + 1, 2), jobs.protocol.rounds})
    head = ["arm", *(f"{none[0][k]['living']:.0%}" for k in rounds), "difference", "seeds"]
    cells = []
    for arm in ARMS:
        seeds = jobs.rows(arm)
        if seeds:
            told = [mean_and_deviation([rows[k]["accuracy"] for rows in seeds]) for k in rounds]
            last = [[rows[-1]["accuracy"] for rows in one] for one in (seeds, none)]
            cells.append((arm, *told, "" if arm == "none" else difference(*last), str(len(seeds))))
    return markdown_table(tuple(head), cells)


def dead_table(jobs: Jobs) -> list[str]:
    """Shares of channels that are dead after the training of the first and the last round."""
    head = ("arm", "dynamically dead, before", "after one round", "at the end", "statically dead at the end")
    cells = []
    for arm in ARMS:
        if seeds := jobs.rows(arm):
            told = [mean_and_deviation([rows[k]["dynamic"] for rows in seeds]) for k in (0, 1, -1)]
            cells.append((arm, *told, mean_and_deviation([rows[-1]["static"] for rows in seeds])))
    return markdown_table(head, cells)


def write_page(jobs: Jobs, command: str, device: str) -> Path:
    """Write the tables as Markdown, beside the other results."""
    protocol = jobs.protocol
    text = [
        "# AP with masks that hold (ResNet-20, CIFAR-10)",
        "",
        f"Protocol {protocol.name}: trained weights, {protocol.epochs} epoch(s) on {protocol.images:,} training images"
        " before the first cut and after each,",
        f"no rewind; {protocol.test_images:,} test images. A round cuts 20 % of the living weights. In percent, the"
        " mean and the standard",
        "deviation over seeds, by the share of living weights; the difference to `none` at the last of them in points,"
        " with its",
        "95 % confidence interval (paired by seed).",
        "",
        *table(jobs),
        "",
        *(f"- `{arm}`: {ABOUT[arm]}" for arm in ARMS if jobs.rows(arm)),
        "",
        f"Dead channels, on {LOOKED_AT * 128:,} training images:",
        "",
        *dead_table(jobs),
        "",
        *conditions(command, 0, device),
        "",
    ]
    page = RESULTS / f"study_ap_{protocol.name}.md"
    page.write_text("\n".join(text), encoding="utf-8")
    return page


def main() -> None:
    options = arguments(__doc__, PROTOCOLS, ARMS)
    protocol = PROTOCOLS[options.protocol]
    jobs = Jobs("ap", protocol, options.folder)
    jobs.carry_out(options.arms, options.seeds, partial(measure, protocol=protocol, device=options.device))
    if protocol.name == "smoke":
        print("\n".join(table(jobs)))
    else:
        print(write_page(jobs, f"python -m benchmarks.studies.ap --protocol {protocol.name}", options.device))


if __name__ == "__main__":
    main()
