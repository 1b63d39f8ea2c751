"""Does AP help once masks hold? ResNet-20 on CIFAR-10, pruned in rounds, with and without it, and with its controls.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.ap --protocol reduced
"""

from functools import partial

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import resnet
from benchmarks.studies.rounds import Arm, draw, measure, tables
from benchmarks.studies.study import Study

# In order of importance: the comparison, AP as published, its choice and its sign; then rewinding, hosts, repairs.
# 18 % by magnitude and then 2 % by magnitude is `none`, weight for weight: tests/pruning/test_ap.py.
ARMS = {
    "none": Arm("global magnitude, 20 % a round"),
    "ap": Arm("18 % by magnitude, 2 % by AP as published: negative weights that moved least", ap={}, control="none"),
    "ap-dead": Arm(
        "18 % by magnitude, 2 % by AP among the negative weights that hold dead units down; by magnitude where there"
        " are too few",
        ap={"by": "dead"},
        control="none",
    ),
    "ap-dead-training": Arm(
        "as `ap-dead`, units dead in the training instead of after it",
        ap={"by": "dead"},
        in_training=True,
        control="none",
    ),
    "revived": Arm(
        "as `none`, at the same densities, but each cut first gives dead units fresh weights, which it spares",
        revive=True,
        control="none",
    ),
    "random": Arm("18 % by magnitude, 2 % at random", ap={"among": "any", "by": "random"}, control="none"),
    "ap-positive": Arm("as `ap`, among the positive weights", ap={"among": "positive"}, control="none"),
    "rewound": Arm("as `none`, from fresh weights, to which every round goes back", fresh=True),
    "rewound-ap": Arm("as `ap`, from the same fresh weights", ap={}, fresh=True, control="rewound"),
    "ap-any": Arm("as `ap`, among all weights", ap={"among": "any"}, control="none"),
    "ap-small": Arm("as `ap`, the smallest of the negative weights", ap={"by": "magnitude"}, control="none"),
    "recalibrated": Arm("as `none`, batch norms estimated anew after each training", recalibrate=True, control="none"),
    "ap-recalibrated": Arm(
        "as `ap`, batch norms estimated anew after each training", ap={}, recalibrate=True, control="recalibrated"
    ),
    "compensated": Arm("as `none`, the mean of what is cut made up for", compensate=True, control="none"),
    "ap-compensated": Arm(
        "as `ap`, the mean of what is cut made up for", ap={}, compensate=True, control="compensated"
    ),
    "ap-early": Arm("as `ap` in the first three rounds, as `none` after them", ap={}, early=3, control="none"),
    "lamp": Arm("LAMP, 20 % a round", host="lamp", control="none"),
    "lamp-ap": Arm("18 % by LAMP, 2 % by AP as published", host="lamp", ap={}, control="lamp"),
    "erased": Arm(
        "as `none`, the last ReLU of every block erased before the first training", erase=True, control="none"
    ),
    "erased-ap": Arm("as `ap`, after the same erasing", ap={}, erase=True, control="erased"),
    "structural": Arm("channels by Torch-Pruning, about 18 % of the weights; 2 % by magnitude", host="torch_pruning"),
    "structural-ap": Arm("the same, 2 % by AP as published", host="torch_pruning", ap={}, control="structural"),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=128, test_images=100, epochs=1, fresh_epochs=1, rounds=1, seeds=1),
    Protocol("short", images=4096, test_images=2500, epochs=1, fresh_epochs=2, rounds=5, seeds=3),
    Protocol("reduced", images=8192, test_images=10_000, epochs=1, fresh_epochs=3, rounds=10, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=30, fresh_epochs=50, rounds=15, seeds=5),
)
STUDY = Study(
    "ap", "AP with masks that hold (ResNet-20, CIFAR-10)", "benchmarks.studies.ap", ARMS, PROTOCOLS,
    partial(measure, resnet(20)), tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
