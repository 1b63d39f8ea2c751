"""Are functions good in ResNet-20 that a search in a small network found? The best 30 of it, from scratch.

Needs the folder that SURGERY_DATA names, and the rows of `python -m benchmarks.activation_search`. From the root of the
repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.found --protocol short
"""

import csv
from functools import partial
from pathlib import Path

from benchmarks.conditions import RESULTS
from benchmarks.studies.activations import PROTOCOLS
from benchmarks.studies.networks import resnet
from benchmarks.studies.study import Study
from benchmarks.studies.trainings import Arm, draw, measure, tables
from surgery import swap

BEST = 30
BRIEF = "2"  # epochs of the trainings by which the search ranks all functions


def best_of(file: Path, count: int = BEST) -> list[str]:
    """The functions with the highest accuracies after the brief trainings of a search, the best first."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["epochs"] == BRIEF]
    return [row["function"] for row in sorted(rows, key=lambda row: -float(row["accuracy"]))[:count]]


ARMS = {"relu": Arm("ReLU", fresh=True)} | {
    name: Arm(f"number {rank} of the search", swap(name, start="own"), fresh=True, control="relu")
    for rank, name in enumerate(best_of(RESULTS / "activation_search.csv"), 1)
}
STUDY = Study(
    "found", "Functions found by a search, in ResNet-20 (CIFAR-10)", "benchmarks.studies.found", ARMS, PROTOCOLS,
    partial(measure, resnet(20)), tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
