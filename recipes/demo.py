"""The demo: train a small network on real images, erase its last ReLUs, repair it by a short fine-tune."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import surgery
from recipes.as_data import report_data
from recipes.data import digits
from recipes.models import build
from recipes.train import accuracy, train
from surgery.sites import table


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo measured: accuracies on the test part, as shares; prints as a table."""

    model: str
    trained: float
    erased: float
    finetuned: float
    report: surgery.Report
    seconds: float

    def facts(self) -> dict[str, object]:
        """The same as plain data."""
        accuracies = {"trained": self.trained, "erased": self.erased, "finetuned": self.finetuned}
        return {"model": self.model, "accuracy": accuracies, "report": report_data(self.report)}

    def __str__(self) -> str:
        rows = (
            (f"{self.model}, trained", f"{self.trained:.1%}"),
            ("with its last ReLUs erased", f"{self.erased:.1%}"),
            ("after a short fine-tune", f"{self.finetuned:.1%}"),
        )
        return "\n".join([*table(("", "accuracy"), rows), f"{self.seconds:.0f} s in all"])


def demo(
    model: str = "timm/resnet18",
    epochs: int = 4,
    finetune_epochs: int = 2,
    pixels: int = 32,
    pictures: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train `model` on scikit-learn's digits, erase the last ReLU of every block, fine-tune, and measure each step.

    The 8 x 8 images are enlarged to `pixels`; `pictures` limits how many are trained on. Progress and the report of
    the surgery go to `say`. With the defaults about 40 seconds on one slow core.

    Raises:
        SurgeryError: scikit-learn is not installed.
    """
    started = time.perf_counter()
    data = digits()
    assert data.train is not None and data.test is not None
    testing, training = data.test, data.train.first(pictures or len(data.train))

    def prepare(images: Tensor) -> Tensor:
        return F.interpolate(images, size=(pixels, pixels), mode="bilinear", align_corners=False)

    def measured(network: torch.nn.Module) -> float:
        return accuracy(network, testing, prepare=prepare)

    def told(epoch: int, loss: float) -> None:
        say(f"  epoch {epoch}: loss {loss:.3f}")

    torch.manual_seed(seed)
    network = build(model, in_chans=1, num_classes=len(data.classes))
    say(f"training {model} on {len(training)} images of digits")
    train(network, training, epochs, prepare=prepare, seed=seed, after_epoch=told)
    trained = measured(network)

    edited, report = surgery.transform(network, surgery.erase_relu(), example=prepare(training.images[:2]))
    say(f"\n{report}\n")
    erased = measured(edited)

    say("fine-tuning")
    train(edited, training, finetune_epochs, lr=0.01, prepare=prepare, seed=seed + 1, after_epoch=told)
    return Outcome(model, trained, erased, measured(edited), report, time.perf_counter() - started)
