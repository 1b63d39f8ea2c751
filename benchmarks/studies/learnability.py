"""When is a convolutional filter easy to learn? A student learns a teacher's filter by SGD, from random weights.

Needs no data. From the root of the repository:

    python -m benchmarks.studies.learnability --protocol reduced

Source: Du, Lee and Tian 2017, "When is a convolutional filter easy to learn?", arXiv 1709.06129.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.conditions import markdown_table, paragraph
from benchmarks.studies.jobs import Row, Write, by_name
from benchmarks.studies.results import Results, at
from benchmarks.studies.spread import spread
from benchmarks.studies.study import Study
from benchmarks.studies.teacher_student import Inputs, fan, gradient, near, starts, steepness
from surgery import activations

SIZE = 6  # weights of a filter
RECOVERED = 0.01  # distance to the teacher, which has length 1
RADIUS = 0.1
SWITCH = 0.01  # of the steps: where two-stage learning rates change
LOOKS = 24
BINS = 12  # of the angle between student and teacher at the start
MANY = 20_000  # images to measure curvatures on


@dataclass(frozen=True)
class Arm:
    """A distribution of images, the activation of teacher and student, and how the student is trained.

    `rates` are the learning rates of the first steps and of the others, as parts of what the largest curvature at the
    teacher allows (the inverse of it). Students start in a ball of this `radius`.
    """

    about: str
    inputs: Inputs = field(default_factory=Inputs)
    function: str = "relu"
    rates: tuple[float, float] = (0.5, 0.5)
    radius: float = RADIUS
    control: str = ""
    fresh: bool = True


@dataclass(frozen=True)
class Size:
    """Students, steps, images in a step, and seeds: each draws a teacher, students and images."""

    name: str
    students: int
    steps: int
    batch: int
    seeds: int


CLOSE, CONE = Inputs(closeness=0.9), Inputs("cone", 1, angle=15.0)
ARMS = {
    "independent": Arm("8 independent normal patches, as if they did not overlap"),
    "close-0.5": Arm("8 patches of correlation 0.5", Inputs(closeness=0.5), control="independent"),
    "close-0.9": Arm("8 patches of correlation 0.9", CLOSE, control="independent"),
    "same": Arm("all patches the same", Inputs(patches=1), control="independent"),
    "overlapping": Arm("windows of white noise, stride 1", Inputs("signal"), control="independent"),
    "smooth-signal": Arm(
        "windows of a line whose neighbours have correlation 0.9, stride 1", Inputs("signal", closeness=0.9),
        control="independent",
    ),
    "points-0": Arm("one patch, one of 8 points", Inputs("points", 1, smoothness=0.0), control="same"),
    "points-0.1": Arm("the same, a tenth of the variance normal", Inputs("points", 1, smoothness=0.1), control="same"),
    "points-0.5": Arm("the same, half of the variance normal", Inputs("points", 1, smoothness=0.5), control="same"),
    "axes": Arm("one patch, on an axis", Inputs("axes", 1, smoothness=0.0), control="same"),
    "cone": Arm("one patch, at most 15 degrees from the teacher", CONE, control="same"),
    "cone-leaky": Arm("the same, leaky ReLU of slope 0.01", CONE, "leaky_relu", control="cone"),
    "cone-helu": Arm("the same, HeLU", CONE, "helu", control="cone"),
    "cone-smelu": Arm("the same, SmeLU", CONE, "smelu", control="cone"),
    "cone-far": Arm("the same, from a ball of radius 2", CONE, radius=2.0, control="cone"),
    "far": Arm("independent patches, from a ball of radius 2", radius=2.0, control="independent"),
    "small-steps": Arm("correlation 0.9, a fifth of the learning rate", CLOSE, rates=(0.1, 0.1), control="close-0.9"),
    "large-steps": Arm("correlation 0.9, three times the rate", CLOSE, rates=(1.5, 1.5), control="close-0.9"),
    "two-stage": Arm("correlation 0.9, first the small, then the large rate", CLOSE, rates=(0.1, 1.5),
                     control="close-0.9"),
}  # fmt: skip
PROTOCOLS = by_name(
    Size("smoke", students=12, steps=100, batch=16, seeds=1),
    Size("reduced", students=120, steps=3000, batch=128, seeds=3),
    Size("full", students=1000, steps=20_000, batch=512, seeds=10),
)


def measure(arm: Arm, seed: int, size: Size, device: str, write: Write) -> None:
    """Train students of an arm, and write a row at some steps: how many have recovered the teacher, and how nearly.

    The students of the first half start at random, those of the other half at even angles to the teacher.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    teacher /= teacher.norm()
    function = activations.build(arm.function)
    least, most = steepness(teacher, arm.inputs.draw(MANY, teacher, generator), function)
    students = torch.cat([draw(size.students, teacher, arm.radius, generator) for draw in (starts, fan)])
    close = near(students[: size.students], teacher)
    distances = {0: (students - teacher).norm(dim=1)}
    for step in range(size.steps):
        rate = arm.rates[step >= SWITCH * size.steps] / most
        patches = arm.inputs.draw(size.batch, teacher, generator)
        students = students - rate * gradient(students, teacher, patches, function)
        if step + 1 in looks(size.steps):
            distances[step + 1] = (students - teacher).norm(dim=1).nan_to_num(nan=math.inf)
    recovered = distances[size.steps] < RECOVERED
    for step, distance in distances.items():
        random, even = (distance < RECOVERED).double().split(size.students)
        write({
            "step": step,
            "recovered": random.mean().item(),
            "recovered_near": random[close].mean().item(),
            "recovered_far": random[~close].mean().item(),
            "near": close.double().mean().item(),
            "distance": _median(distance[recovered]),
            "least": least,
            "most": most,
            **{f"angle_{k}": part.mean().item() for k, part in enumerate(even.chunk(BINS))},
        })  # fmt: skip


def looks(steps: int) -> set[int]:
    """After which steps the students are looked at: first often, then rarely."""
    return {round(steps ** (k / LOOKS)) for k in range(LOOKS + 1)}


def _median(values: Tensor) -> float:
    return values.median().item() if len(values) else math.nan


def speed(rows: Sequence[Row]) -> float:
    """By how many powers of ten the distance shrinks in 1,000 steps, once below 0.3: the median of those recovered."""
    shrinking = [(row.figures["step"], row.figures["distance"]) for row in rows if 1e-9 < row.figures["distance"] < 0.3]
    if len(shrinking) < 2:
        return math.nan
    (begin, far), (end, close) = shrinking[0], shrinking[-1]
    return 1000 * math.log10(far / close) / (end - begin)


def expected_speed(arm: Arm, rows: Sequence[Row]) -> float:
    """The same for the direction in which a step shortens the distance least, by the curvatures at the teacher."""
    flattest = rows[-1].figures["least"] / rows[-1].figures["most"]
    left = max(abs(1 - arm.rates[1] * part) for part in (flattest, 1.0))
    return -1000 * math.log10(min(left, 1.0))


def tables(size: Size, results: Results) -> list[str]:
    """How many students recover the teacher, from where, and how fast."""
    head = (
        "arm", "recovered", "of the near", "of the far", "near", "decades in 1,000 steps", "by the curvature", "seeds",
    )  # fmt: skip
    cells = []
    for name in results:
        arm = results.arms[name]
        assert isinstance(arm, Arm)
        shares = [
            _spread(results.of(name, at(-1, figure)).values(), digits=0)
            for figure in ("recovered", "recovered_near", "recovered_far", "near")
        ]
        expected = fmean(expected_speed(arm, rows) for rows in results.rows[name].values())
        measured = _spread(results.of(name, speed).values(), scale=1, digits=1)
        cells.append((name, *shares, measured, f"{expected:.1f}", str(results.seeds(name))))
    return [
        paragraph(
            f"Filters of {SIZE} weights learn a teacher by SGD for {size.steps:,} steps of {size.batch} new images, at"
            " half of the inverse of the largest curvature at the teacher unless the arm says otherwise."
            f" {size.students} students for each seed start in a ball of radius {RADIUS} around zero, in lengths of the"
            f" teacher. Recovered: nearer to the teacher than {RECOVERED}, in percent, with the standard deviation over"
            " seeds; also of those that start nearer to the teacher than zero is, and of the others. Speed: by how many"
            " powers of ten the distance shrinks, and what the curvatures at the teacher let expect."
        ),
        "",
        *markdown_table(head, cells),
    ]


def _spread(values: Iterable[float], scale: float = 100, digits: int = 2) -> str:
    """The mean of what is a number, and its deviation."""
    known = [value for value in values if not math.isnan(value)]
    return spread(known, scale, digits) if known else "-"


def draw(results: Results) -> Figure:
    """Recovery by the angle at the start; distances by step: of closeness, of smoothness, of learning rates."""
    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    (angles, closeness), (smoothness, rates) = figure.subplots(2, 2)
    _angles(angles, results, ("independent", "overlapping", "axes", "cone", "cone-helu", "cone-leaky", "cone-smelu"))
    patches = ("independent", "close-0.5", "close-0.9", "same", "overlapping", "smooth-signal")
    points = ("same", "points-0.5", "points-0.1", "points-0", "axes")
    stages = ("small-steps", "close-0.9", "large-steps", "two-stage")
    _curves(closeness, results, "closeness of the patches", "distance", patches)
    _curves(smoothness, results, "smoothness of the inputs", "recovered", points)
    _curves(rates, results, "learning rates", "distance", stages)
    return figure


def _angles(axes: Axes, results: Results, arms: Sequence[str]) -> None:
    places = [180 * (k + 0.5) / BINS for k in range(BINS)]
    for name in filter(results.__contains__, arms):
        shares = [100 * fmean(results.of(name, at(-1, f"angle_{k}")).values()) for k in range(BINS)]
        axes.plot(places, shares, marker="o", markersize=4, linewidth=1.2, label=name)
    axes.set_xlabel("angle between student and teacher at the start, degrees")
    _finish(axes, "where the student starts", "recovered, %")


def _curves(axes: Axes, results: Results, title: str, figure: str, arms: Sequence[str]) -> None:
    """A figure by step, the mean over seeds: the distance on a logarithmic scale, a share in percent."""
    share = figure != "distance"
    for name in filter(results.__contains__, arms):
        looks = list(zip(*results.rows[name].values(), strict=True))
        means = [(100 if share else 1) * fmean(row.figures[figure] for row in rows) for rows in looks]
        axes.plot([rows[0].figures["step"] for rows in looks], means, linewidth=1.2, label=name)
    axes.set_xlabel("steps")
    axes.set_xscale("log")
    if not share:
        axes.set_yscale("log")
        axes.set_ylim(1e-12, 2.0)
    _finish(axes, title, "recovered, %" if share else "distance to the teacher, median of those recovered")


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)


STUDY = Study(
    "learnability", "When is a convolutional filter easy to learn?", "benchmarks.studies.learnability", ARMS, PROTOCOLS,
    measure, tables, draw, on_data=False,
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
