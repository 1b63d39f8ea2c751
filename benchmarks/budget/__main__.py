"""What a budget costs: networks that `surgery.choose` made faster, without training, after training, and merged.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.budget --study lite0       # chosen, not trained
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study resnet56    # chosen, then trained for three epochs
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study relu_front  # fewer ReLUs, not trained
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study rankings    # the choice beside three others, not trained
    SURGERY_DATA=FOLDER python -m benchmarks.budget --study candidates --threads 2  # what choosing costs
    python -m benchmarks.budget --study structures                      # DepthShrinker's six, merged, random weights
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.budget.candidates import candidates
from benchmarks.budget.lite0 import lite0
from benchmarks.budget.rankings import rankings
from benchmarks.budget.relu_front import relu_front
from benchmarks.budget.resnet56 import resnet56
from benchmarks.budget.structures import structures
from benchmarks.conditions import RESULTS, command_line, conditions, paragraph, write_results

STUDIES = {
    "lite0": lite0, "resnet56": resnet56, "relu_front": relu_front, "rankings": rankings, "candidates": candidates,
    "structures": structures,
}  # fmt: skip


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
    parser.add_argument("--left", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5], help="parts of the ReLUs")
    parser.add_argument("--threads", type=int, default=1)
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
    torch.set_num_threads(options.threads)
    report = STUDIES[options.study](options)
    lines = [
        f"# Under a budget: {options.study}", "", paragraph(report.about), "", *report.table, "",
        *([*report.below, ""] if report.below else []),
        *conditions(command_line(parser, options, "budget"), seed=options.seed), "",
    ]  # fmt: skip
    name = f"budget_{options.study}" + ("_onnxruntime" if options.runtime == "onnxruntime" else "")
    print(write_results(options.results, name, lines, report.rows))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
