"""How reproducible is a training? Networks that differ in initial weights, order of images or one bit, and disagree.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.reproducibility --protocol reduced
"""

from benchmarks.studies.jobs import by_name
from benchmarks.studies.perceptron import Function, Size
from benchmarks.studies.retrainings import COMMON, LINEAR, Arm, draw, measure, tables
from benchmarks.studies.study import Study
from surgery import swap

# Every activation with what it is, and its family: those of one family are the steps of a path from ReLU to a line.
FUNCTIONS = {
    "relu": ("ReLU", Function(), ""),
    **{
        f"smelu-{beta}": (
            f"SmeLU, beta {beta}", Function(swap("smelu", start="own", per="layer", beta=beta, learn=False)), "SmeLU",
        )
        for beta in (0.25, 0.5, 1.0, 2.0, 4.0)
    },
    **{
        f"linear-{share}": (f"{share:.0%} of the units linear, the others ReLU", Function(linear=share), LINEAR)
        for share in (0.25, 0.5, 0.75, 1.0)
    },
    **{
        f"leaky-{slope}": (
            f"leaky ReLU of slope {slope}", Function(swap("leaky_relu", negative_slope=slope)), "leaky ReLU",
        )
        for slope in (0.1, 0.3, 0.6)
    },
    "gelu": ("GELU", Function(swap("gelu")), ""),
    "silu": ("SiLU", Function(swap("silu")), ""),
    "softplus": ("softplus", Function(swap("softplus")), ""),
    "tanh": ("tanh", Function(swap("tanh")), ""),
    "elu": ("ELU", Function(swap("elu")), ""),
    "mish": ("Mish", Function(swap("mish")), ""),
    "rescu": (
        "RESCU: slopes 0.1 and 1, joined from -1 to 1",
        Function(swap("rescu", start="own", per="layer", low_slope=0.1, joint=2.0)), "",
    ),
    "gsmelu": (
        "generalised SmeLU, joined from -2 to 0.5",
        Function(swap("gsmelu", start="own", per="layer", left=2.0, right=0.5, learn=False)), "",
    ),
}  # fmt: skip
IN_DETAIL = ("relu", "smelu-1.0", "smelu-2.0", "softplus", "gelu", "tanh", "linear-0.5")
VARIED = {
    "init": "only the initial weights differ", "order": "only the order of the images differs",
    "bit": "only one bit of one initial weight differs",
}  # fmt: skip

ARMS = {
    name: Arm(about, function, name, family=family, control="relu" if name != "relu" else "")
    for name, (about, function, family) in FUNCTIONS.items()
} | {
    f"{name}-{varied}": Arm(
        f"{FUNCTIONS[name][0]}; {what}", FUNCTIONS[name][1], name, varied, rates=(COMMON,), control=name
    )
    for name in IN_DETAIL
    for varied, what in VARIED.items()
}
PROTOCOLS = by_name(
    Size("smoke", images=128, held_out=32, test_images=100, epochs=1, networks=3, seeds=1),
    Size("reduced", images=4000, held_out=1000, test_images=3000, epochs=25, networks=9, seeds=1),
    Size("full", images=40_000, held_out=10_000, test_images=10_000, epochs=100, networks=18, seeds=3),
)
STUDY = Study(
    "reproducibility", "Reproducibility of a perceptron (CIFAR-10)", "benchmarks.studies.reproducibility", ARMS,
    PROTOCOLS, measure, tables, draw,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
