"""Activations in a small vision transformer with 4 x 4 patches on CIFAR-10, from scratch.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.vit --protocol reduced
"""

from functools import partial

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import vit_tiny
from benchmarks.studies.study import Study
from benchmarks.studies.trainings import Arm, draw, measure, tables
from surgery import swap

ARMS = {
    "gelu": Arm("GELU, as it is", fresh=True),
    "pwlu": Arm("PWLU, which begins as GELU", swap("pwlu", activation="gelu"), fresh=True, control="gelu"),
    "relu": Arm("ReLU", swap("relu", activation="gelu"), fresh=True, control="gelu"),
    "swish": Arm("Swish", swap("swish", activation="gelu", start="own"), fresh=True, control="gelu"),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=64, test_images=50, epochs=1, fresh_epochs=1, seeds=1),
    Protocol("reduced", images=4096, test_images=2000, epochs=1, fresh_epochs=4, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, fresh_epochs=100, seeds=5),
)
STUDY = Study(
    "vit", "Activations of a ViT-tiny (CIFAR-10)", "benchmarks.studies.vit", ARMS, PROTOCOLS,
    partial(measure, vit_tiny()), tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
