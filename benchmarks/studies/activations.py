"""Which activation? Every function of the catalogue in ResNet-20 on CIFAR-10, into trained weights and from scratch.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.activations --protocol reduced
"""

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import Arm, Study
from surgery import activations, swap

# The functions of the literature first, then torch's own.
FIRST = ("pwlu", "frelu", "prelu", "swish", "gelu", "smelu", "helu", "npwlu", "gsmelu", "silu", "mish")
LEFT_OUT = ("relu", "identity", "affine", "rectified_scores")  # what is there, what is none, what is no function of x
NAMES = (*FIRST, *(name for name in activations.names() if name not in (*FIRST, *LEFT_OUT)))

ARMS = (
    {"control": Arm("ReLU, trained on")}
    | {name: Arm(f"all 19 ReLUs to {name}", swap(name), control="control") for name in NAMES}
    | {"scratch": Arm("ReLU, from scratch", trained=False)}
    | {
        f"scratch-{name}": Arm(f"{name} from scratch", swap(name, start="own"), trained=False, control="scratch")
        for name in NAMES
    }
)
PROTOCOLS = by_name(
    Protocol("smoke", images=256, test_images=250, epochs=1, seeds=1),
    Protocol("reduced", images=8192, test_images=10_000, epochs=3, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=160, seeds=5),
)
STUDY = Study("activations_resnet20", "Activations of ResNet-20 (CIFAR-10)", "cifar/resnet20", ARMS, PROTOCOLS)

if __name__ == "__main__":
    STUDY.main(__doc__)
