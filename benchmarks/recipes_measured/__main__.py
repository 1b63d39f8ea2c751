"""What every ready-made recipe does to a small trained network, beside the same network untouched.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.recipes_measured --work FOLDER

The networks are trained first and kept in the folder of --work. Rows are saved job by job: the command goes on where it
was stopped. The rows of the protocol `reduced` are also what `surgery recipes ls` and `recipes/README.md` tell, which
`surgery recipes ls --markdown` prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from itertools import zip_longest
from pathlib import Path

import recipes
from benchmarks.conditions import RESULTS
from benchmarks.recipes_measured.measuring import Arm, measure
from benchmarks.recipes_measured.protocol import PROTOCOLS, Protocol
from benchmarks.recipes_measured.report import write
from benchmarks.studies.jobs import Jobs, Write
from recipes.data import shared_folder
from recipes.format.effects import FILE
from recipes.format.library import tables_of

# The network of each family, by the first word of the names of its recipes.
FAMILIES = {
    "resnet": "resnet20", "vgg": "vgg", "vit": "vit", "mobilenetv2": "mobilenetv2", "mobilenet": "mobilenetv3",
    "efficientnet": "efficientnet", "convnext": "convnext", "regnet": "regnet", "densenet": "densenet",
    "swin": "swin", "inception": "inception", "mixer": "mixer",
}  # fmt: skip
OTHERWISE = {"mobilenet-budget": "mobilenetv2"}  # the blocks it drops are those of a MobileNetV2
BESIDES = {"resnet-budget, deeper": Arm("resnet-budget", "resnet56")}  # measured last
TOLD = "reduced"  # the protocol whose rows the package carries


@cache
def arms() -> dict[str, Arm]:
    """All recipes, a recipe of each family in turn; those with pruning come last, since they take longest."""
    found: dict[str, Arm] = {}
    for pruned in (False, True):
        families = [
            [name for name in recipes.names(f"{family}-*") if ("pruning" in tables_of(name)) == pruned]
            for family in FAMILIES
        ]
        for turn in zip_longest(*families):
            for name in filter(None, turn):
                found[name] = Arm(name, OTHERWISE.get(name, FAMILIES[name.partition("-")[0]]))
    return found | BESIDES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = arms()
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="reduced")
    parser.add_argument("--arms", nargs="+", choices=list(known), default=list(known), metavar="RECIPE")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER",
                        help="where trained networks and controls are kept, and to go on from")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page-only", action="store_true", help="write the page of the rows that are there")
    options = parser.parse_args()
    protocol = PROTOCOLS[options.protocol]
    jobs = Jobs(options.results / f"recipes_measured_{protocol.name}.csv")
    own = options.results == RESULTS and protocol.name == TOLD
    try:
        if not options.page_only:
            shared_folder()  # fails here if it is missing, instead of in every job
            do = partial(_do, known, protocol, options.work / protocol.name)
            jobs.carry_out(options.arms, [options.seed], do, "cpu")
    finally:  # write what finished, even if other jobs failed
        if jobs.file.is_file():
            print(write(protocol, known, jobs, Path(str(resources.files("recipes")), FILE) if own else None))


def _do(known: Mapping[str, Arm], protocol: Protocol, folder: Path, arm: str, seed: int, write: Write) -> None:
    measure(known[arm], seed, protocol, folder, write)


if __name__ == "__main__":
    main()
