"""Does erasing ReLUs help or hurt? ResNets on CIFAR-10, from trained weights and from scratch.

Needs the folder that SURGERY_DATA names. From the root of the repository, ResNet-20, or another by `--depth`:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.erase --protocol reduced
"""

import argparse
from functools import partial

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import resnet
from benchmarks.studies.study import Study
from benchmarks.studies.trainings import Arm, draw, measure, tables
from surgery import erase_relu

FADE = (0.0, 0.7)

# In order of importance. The blocks of these networks have two ReLUs: the middle one is the first.
TRAINED = {
    "control": Arm("trained on as it is"),
    "abrupt": Arm("the last ReLU of every block erased at once", erase_relu(), control="control"),
    "faded": Arm("the same, faded over 70 % of the steps", erase_relu(fade=FADE), control="abrupt"),
    "faded-distilled": Arm(
        "faded, learning from the network before surgery, too", erase_relu(fade=FADE), distill=True, control="faded"
    ),
    "abrupt-distilled": Arm("erased at once, learning from it, too", erase_relu(), distill=True, control="abrupt"),
    "control-distilled": Arm("trained on as it is, learning from itself", distill=True, control="control"),
    "affine": Arm("fitted lines in the place of the ReLUs", erase_relu(stand_in="affine"), control="abrupt"),
    "affine-distilled": Arm(
        "fitted lines, learning from it, too", erase_relu(stand_in="affine"), distill=True, control="affine"
    ),
    "half": Arm("the last ReLU of every second block erased at once", erase_relu(share=0.5), control="control"),
    "quarter": Arm("the last ReLU of every fourth block erased at once", erase_relu(share=0.25), control="control"),
    "half-faded": Arm("the same, faded", erase_relu(share=0.5, fade=FADE), control="half"),
}
FRESH = {
    "scratch": Arm("from scratch, as it is", fresh=True),
    "scratch-last": Arm("the last ReLU of every block erased", erase_relu(), fresh=True, control="scratch"),
    "scratch-first": Arm("the first", erase_relu("first"), fresh=True, control="scratch"),
    "scratch-half": Arm("the last, in every second block", erase_relu(share=0.5), fresh=True, control="scratch"),
    "scratch-most": Arm("the last, in 3 of 4 blocks", erase_relu(share=0.75), fresh=True, control="scratch"),
    "scratch-quarter": Arm("the last, in every fourth block", erase_relu(share=0.25), fresh=True, control="scratch"),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=128, test_images=100, epochs=1, fresh_epochs=1, seeds=1),
    Protocol("short", images=4096, test_images=2500, epochs=2, fresh_epochs=5, seeds=1),
    Protocol("reduced", images=8192, test_images=10_000, epochs=6, fresh_epochs=10, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, fresh_epochs=160, seeds=5),
)


def study(depth: int = 20) -> Study[Arm, Protocol]:
    """The study at one depth: 20, 32, 44 or 56; from scratch also 110."""
    arms = FRESH if depth == 110 else TRAINED | FRESH
    title = f"Erasing ReLUs of ResNet-{depth} (CIFAR-10)"
    command = f"benchmarks.studies.erase --depth {depth}"
    return Study(f"erase_resnet{depth}", title, command, arms, PROTOCOLS, partial(measure, resnet(depth)), tables, draw)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--depth", type=int, default=20)
    options, words = parser.parse_known_args()
    study(options.depth).main(__doc__, words)
