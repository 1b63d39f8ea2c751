"""Does AP help a small vision transformer? ViT-tiny with 4 x 4 patches on CIFAR-10, from scratch, pruned in rounds.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.vit_ap --protocol reduced
"""

from functools import partial

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import vit_tiny
from benchmarks.studies.rounds import Arm, draw, measure, tables
from benchmarks.studies.study import Study

ARMS = {
    "none": Arm("global magnitude, 20 % a round", fresh=True),
    "ap": Arm("18 % by magnitude, 2 % by AP as published", ap={}, fresh=True, control="none"),
    "random": Arm("18 % by magnitude, 2 % at random", ap={"among": "any", "by": "random"}, fresh=True, control="none"),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=64, test_images=50, epochs=1, fresh_epochs=1, rounds=1, seeds=1),
    Protocol("short", images=1024, test_images=500, epochs=1, fresh_epochs=3, rounds=3, seeds=1),
    Protocol("reduced", images=4096, test_images=2000, epochs=1, fresh_epochs=2, rounds=5, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, fresh_epochs=50, rounds=10, seeds=5),
)
STUDY = Study(
    "vit_ap", "AP in a ViT-tiny (CIFAR-10)", "benchmarks.studies.vit_ap", ARMS, PROTOCOLS,
    partial(measure, vit_tiny()), tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
