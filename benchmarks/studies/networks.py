"""Studies of arms: a network, what is done to it, and how it is trained then; measured after every epoch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import surgery
from benchmarks.conditions import RESULTS, conditions, markdown_table
from benchmarks.studies.jobs import Jobs, Protocol, Write, arguments
from benchmarks.studies.spread import difference, mean_and_deviation
from recipes.data import open_data, shared_folder
from recipes.finetune import accuracy, finetune
from recipes.models import build
from recipes.settings import Finetune

FITTED_ON = 8  # batches, for affine stand-ins

TRAINED = Finetune(batch_size=128, lr=0.02, weight_decay=1e-4)
FRESH = Finetune(batch_size=128, lr=0.1, weight_decay=5e-4, warmup_epochs=1)


@dataclass(frozen=True)
class Arm:
    """What is done to a network, trained or fresh, and the arm it is compared with ("": it is a control itself)."""

    about: str
    rule: surgery.Rule | None = None
    trained: bool = True
    distill: bool = False
    control: str = ""


@dataclass(frozen=True)
class Study:
    """Arms, the most telling first, on one model; trained weights are those of the folder that SURGERY_DATA names."""

    name: str
    title: str
    model: str
    arms: Mapping[str, Arm]
    protocols: Mapping[str, Protocol]
    fresh: Finetune = FRESH
    kwargs: Mapping[str, int] | None = None

    def main(self, about: str | None) -> None:
        """Carry out what the command line asks for, and write the page."""
        options = arguments(about, self.protocols, self.arms)
        protocol = self.protocols[options.protocol]
        jobs = Jobs(self.name, protocol, options.folder)
        jobs.carry_out(options.arms, options.seeds, partial(self.measure, protocol=protocol, device=options.device))
        if protocol.name == "smoke":
            print("\n".join(self.table(jobs)))
        else:
            print(self.write_page(jobs, options.device))

    def measure(self, name: str, seed: int, write: Write, protocol: Protocol, device: str) -> None:
        """One arm with one seed: a row after the surgery, and one after every epoch."""
        arm = self.arms[name]
        data = open_data("cifar10", train_num_samples=protocol.images, val_num_samples=protocol.test_images)
        options = replace(TRAINED if arm.trained else self.fresh, epochs=protocol.epochs, distill=arm.distill)
        options = replace(options, warmup_epochs=min(options.warmup_epochs, protocol.epochs - 1))
        torch.manual_seed(seed)
        weights = shared_folder() / "weights" / f"cifar10_{self.model.partition('/')[2]}.safetensors"
        model: nn.Module = build(self.model, pretrained=weights if arm.trained else False, **self.kwargs or {})
        model.to(device)
        teacher = deepcopy(model).eval() if arm.distill else None
        feed = data.training(options, seed=seed, device=device)
        if arm.rule is not None:
            batches = [images for images, _ in islice(feed.epoch(0), FITTED_ON)]
            surgery.transform_(model, arm.rule, batches[0][:2])
            if arm.rule.make == "affine":
                surgery.fit_affine(model, batches)
        test = data.testing(device=device)
        write({"epoch": 0, "accuracy": accuracy(model, test), "loss": float("nan")})
        finetune(model, feed, options, test=test, teacher=teacher, seed=seed, journal=_Epochs(write))

    def table(self, jobs: Jobs) -> list[str]:
        """Accuracies right after surgery and at the end, and each arm's difference to its control."""
        head = ("arm", "after surgery", "at the end", "difference", "seeds")
        cells = []
        for name, arm in self.arms.items():
            if not (seeds := jobs.rows(name)):
                continue
            first, last = ([rows[k]["accuracy"] for rows in seeds] for k in (0, -1))
            control = jobs.rows(arm.control) if arm.control else []
            told = difference(last, [rows[-1]["accuracy"] for rows in control]) if control else ""
            cells.append((name, mean_and_deviation(first), mean_and_deviation(last), told, str(len(seeds))))
        return markdown_table(head, cells)

    def write_page(self, jobs: Jobs, device: str) -> Path:
        """Write the table as Markdown, beside the other results."""
        protocol = jobs.protocol
        text = [
            f"# {self.title}",
            "",
            f"Protocol {protocol.name}: {protocol.epochs} epochs on {protocol.images:,} training images,"
            f" {protocol.test_images:,} test images. In percent, the mean",
            "and the standard deviation over seeds; the difference to the control in points, with its 95 % confidence"
            " interval",
            "(paired by seed).",
            "",
            *self.table(jobs),
            "",
            *(
                f"- `{name}`: {arm.about}" + (f" (control: `{arm.control}`)" if arm.control else "")
                for name, arm in self.arms.items()
                if jobs.rows(name)
            ),
            "",
            *conditions(shlex.join(["python", "-m", _module(), *sys.argv[1:]]), 0, device),
            "",
        ]
        page = RESULTS / f"study_{self.name}_{protocol.name}.md"
        page.write_text("\n".join(text), encoding="utf-8")
        return page


class _Epochs:
    """A journal that hands on what every epoch came to."""

    def __init__(self, write: Write) -> None:
        self._write, self._epoch = write, 0

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        """A training begins."""

    def step(self, loss: float | None, images: int) -> None:
        """A step was made."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over."""
        self._epoch += 1
        self._write({"epoch": self._epoch, "accuracy": row["top1"], "loss": row["loss"]})


def _module() -> str:
    """The module that was started, as `python -m` names it."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else "benchmarks.studies"
