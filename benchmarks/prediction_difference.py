"""How much surgery changes: the answers of a trained ResNet-20 before and after an edit, and those of other networks.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.prediction_difference
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from benchmarks.erase_pretrained import KNOWN
from recipes.data import cifar10, normalise, shared_folder
from recipes.models.build import build
from surgery.predictions.intervals import Estimate
from surgery.predictions.prediction_difference import PredictionDifference

EDITS = {
    "swap to pwlu": surgery.swap("pwlu"),
    "swap to smelu, nearest": surgery.swap("smelu"),
    "swap to smelu, beta 0.5": surgery.swap("smelu", start="own", beta=0.5),
    "swap to smelu, beta 1": surgery.swap("smelu", start="own", beta=1.0),
    "swap to gelu": surgery.swap("gelu"),
    "erase one last ReLU": surgery.erase_relu(share=0.1),
    "erase three last ReLUs": surgery.erase_relu(share=1 / 3),
    "a line for one inner ReLU": surgery.erase(site="layer1.1.act1", stand_in="affine"),
    "drop a block": surgery.drop("layer1.1"),
    "drop two blocks": surgery.drop(("layer1.1", "layer2.1")),
}
OTHERS = (32, 44, 56)


@dataclass(frozen=True)
class Row:
    """A network beside ResNet-20: how far apart their predictions are, with standard errors over images."""

    network: str
    accuracy: float
    total_variation: float
    total_variation_error: float
    disagreement: float
    disagreement_error: float
    good_churn: float
    bad_churn: float

    @classmethod
    def of(cls, network: str, found: PredictionDifference) -> Row:
        """The row of a difference between ResNet-20 and this network, on labelled images."""
        assert found.good_churn is not None and found.bad_churn is not None
        return cls(
            network, found.accuracies[1], *_both(found.total_variation), *_both(found.disagreement),
            found.good_churn.mean, found.bad_churn.mean,
        )  # fmt: skip


def trained(depth: int) -> nn.Module:
    """The published network of this depth."""
    weights = shared_folder() / "weights" / f"cifar10_resnet{depth}.safetensors"
    return build(f"cifar/resnet{depth}", pretrained=weights).eval()


def networks(model: nn.Module, example: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """The edited copies of a network, and the others."""
    for name, rule in EDITS.items():
        yield name, surgery.transform(model, rule, example)[0]
    for depth in OTHERS:
        yield f"ResNet-{depth}, another training", trained(depth)


def table(rows: list[Row]) -> list[str]:
    """Percentages, with half of the 95 % interval."""
    head = ("network", "accuracy", "total variation", "disagreement", "got right", "got wrong")
    return markdown_table(head, [
        (
            row.network, f"{100 * row.accuracy:.2f}", _percent(row.total_variation, row.total_variation_error),
            _percent(row.disagreement, row.disagreement_error), f"{100 * row.good_churn:.2f}",
            f"{100 * row.bad_churn:.2f}",
        )
        for row in rows
    ])  # fmt: skip


def write(rows: list[Row], options: argparse.Namespace, command: str) -> Path:
    """Write the table as Markdown and as CSV; return the path of the former."""
    text = [
        "# How much surgery changes the answers of a trained ResNet-20 (CIFAR-10)",
        "",
        paragraph(
            f"`surgery.prediction_difference([resnet20, network], batches)` on {options.test_images:,} test images, in"
            f" percent; nothing is trained after the edit. ResNet-20 itself has {100 * KNOWN[20]:.2f} on all 10,000."
            " Got right: images that only the other network gets right; got wrong: that only ResNet-20 does."
        ),
        "",
        *table(rows),
        "",
        *conditions(command, 0),
        "",
    ]
    return write_results(options.results, "prediction_difference", text, rows)


def _both(estimate: Estimate) -> tuple[float, float]:
    return estimate.mean, estimate.error


def _percent(mean: float, error: float) -> str:
    return f"{100 * mean:.2f} ± {196 * error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    test = cifar10(shards=()).test
    assert test is not None
    test = test.shuffled().first(options.test_images)  # sorted by class, the first ones are all airplanes
    batches = [
        (normalise(images), labels)
        for images, labels in zip(test.images.split(250), test.labels.split(250), strict=True)
    ]
    model, rows = trained(20), list[Row]()
    for name, network in networks(model, batches[0][0][:2]):
        rows.append(Row.of(name, surgery.prediction_difference([model, network], batches)))
        print(asdict(rows[-1]), flush=True)
    print(write(rows, options, command_line(parser, options, "prediction_difference")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
