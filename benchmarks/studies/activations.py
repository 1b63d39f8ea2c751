"""Which activation? Every function of the catalogue in ResNet-20 on CIFAR-10, from trained weights and from scratch.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.activations --protocol reduced
"""

from functools import partial

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import resnet
from benchmarks.studies.study import Study
from benchmarks.studies.trainings import Arm, draw, measure, tables
from surgery import activations, swap

# The functions of the literature first, then torch's own.
FIRST = ("pwlu", "swish", "prelu", "frelu", "gelu", "smelu", "helu", "silu", "gsmelu", "npwlu", "mish")
LEFT_OUT = ("relu", "identity", "affine", "rectified_scores")  # the original, and what is not a pointwise nonlinearity
NAMES = (*FIRST, *(name for name in activations.names() if name not in (*FIRST, *LEFT_OUT)))
# Both readings of the paper, step by step.
ALTERNATING = {
    "frelu-slopes": ("frelu, positive slopes in turn with negative ones", "slopes"),
    "frelu-weights": ("frelu, slopes in turn with all other weights", "weights"),
}

ARMS = (
    {"trained": Arm("ReLU, trained on")}
    | {name: Arm(f"all 19 ReLUs to {name}", swap(name), control="trained") for name in NAMES}
    | {
        name: Arm(f"all 19 ReLUs to {about}", swap("frelu", alternate=kind), control="frelu")
        for name, (about, kind) in ALTERNATING.items()
    }
    | {"scratch": Arm("ReLU, from scratch", fresh=True)}
    | {
        f"scratch-{name}": Arm(f"{name}, from scratch", swap(name, start="own"), fresh=True, control="scratch")
        for name in NAMES
    }
    | {
        f"scratch-{name}": Arm(
            f"{about}, from scratch", swap("frelu", start="own", alternate=kind), fresh=True, control="scratch-frelu"
        )
        for name, (about, kind) in ALTERNATING.items()
    }
)
PROTOCOLS = by_name(
    Protocol("smoke", images=128, test_images=100, epochs=1, fresh_epochs=1, seeds=1),
    Protocol("short", images=4096, test_images=2500, epochs=2, fresh_epochs=5, seeds=1),
    Protocol("reduced", images=8192, test_images=10_000, epochs=3, fresh_epochs=10, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, fresh_epochs=160, seeds=5),
)
STUDY = Study(
    "activations", "Activations of ResNet-20 (CIFAR-10)", "benchmarks.studies.activations", ARMS, PROTOCOLS,
    partial(measure, resnet(20)), tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
