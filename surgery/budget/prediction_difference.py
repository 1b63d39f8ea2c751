"""Prediction difference: how much networks that were trained alike, or edited, differ in what they predict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from surgery.budget.damage import SURE, log_probabilities
from surgery.budget.measurement import outputs_of
from surgery.errors import BadValue
from surgery.model import check_plain
from surgery.repair.batches import batches_of, check_repeatable
from surgery.text import html_table, table

_COLUMNS = ("", "mean", "95 %")
_NAMES = {
    "total_variation": "total variation", "disagreement": "disagreement", "relative": "relative, true class",
    "good_churn": "good churn", "bad_churn": "bad churn", "accuracy": "accuracy",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over pairs of models, or over models, with its jackknife standard error over models; None of two models.

    Pairs that share a model are not independent: that is why models are left out one at a time, not pairs.
    """

    mean: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.error is None else f" ± {SURE * self.error:.4f}")


@dataclass(frozen=True, repr=False)
class PredictionDifference:
    """How much models differ in their predictions for `images` images, as means over all pairs of models.

    `total_variation` is half the sum of the absolute differences of probabilities, `disagreement` the fraction of
    images with different most likely classes. With labels: `relative` is the difference of the probabilities of the
    true class over their mean, `good_churn` the fraction of images that only the later model gets right, `bad_churn`
    that only the earlier one does, `accuracy` the mean accuracy and `accuracies` those of each model.
    """

    images: int
    models: int
    total_variation: Estimate
    disagreement: Estimate
    relative: Estimate | None = None
    good_churn: Estimate | None = None
    bad_churn: Estimate | None = None
    accuracy: Estimate | None = None
    accuracies: tuple[float, ...] = ()

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def __repr__(self) -> str:
        return f"<PredictionDifference: {self._head()}>"

    def __str__(self) -> str:
        return "\n".join([self._head(), *(f"  {line}" for line in table(_COLUMNS, self._rows()))])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), above=[self._head()])

    def _head(self) -> str:
        return f"{self.models} models on {self.images} images"

    def _rows(self) -> list[tuple[str, ...]]:
        found = [(text, getattr(self, name)) for name, text in _NAMES.items()]
        return [
            (text, f"{value.mean:.4f}", "-" if value.error is None else f"± {SURE * value.error:.4f}")
            for text, value in found if value is not None
        ]  # fmt: skip


def prediction_difference(models: Sequence[nn.Module], batches: Iterable[Any]) -> PredictionDifference:
    """Measure how much two or more models differ in what they predict for the same images.

    Two trainings of one network, or a network before and after surgery, may be equally accurate and still disagree on
    many images. `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image". Models are run in eval
    mode and left as they were; with labels, churn is counted from each model to those after it.

    Raises:
        BadValue: fewer than two models; the batches are empty, can be read only once or fail in a model; or the models
            do not return scores of the same classes.

    Source: total variation as prediction difference: Shamir, Lin and Coviello 2020, "Smooth activations and
    reproducibility in deep networks", arXiv 2010.09931; churn: Milani Fard et al. 2016; jackknife: Quenouille.
    """
    listed = list(models)
    if len(listed) < 2:
        raise BadValue("A difference needs two models.", asked=f"{len(listed)} model{'s' if len(listed) != 1 else ''}")
    for model in listed:
        check_plain(model)
    check_repeatable(batches)
    kept = list(batches_of(batches, listed[0]))
    logs = [log_probabilities(outputs_of(model, kept)) for model in listed]
    shapes = {tuple(part.shape) for part in logs}
    if len(shapes) > 1 or logs[0].dim() > 2:
        raise BadValue(
            "The models do not return scores of the same classes.", asked=", ".join(map(str, sorted(shapes)))
        )
    labels = [batch.labels for batch in kept]
    known = [part for part in labels if part is not None]
    return _compared([part.exp() for part in logs], torch.cat(known) if len(known) == len(labels) else None)


def _compared(predictions: Sequence[Tensor], labels: Tensor | None) -> PredictionDifference:
    """The differences of probabilities (N, C) of all models."""
    count, images = len(predictions), len(predictions[0])
    classes = [part.argmax(1) for part in predictions]

    def over_pairs(value: Callable[[int, int], float]) -> Estimate:
        values = {pair: value(*pair) for pair in combinations(range(count), 2)}
        return jackknife(lambda kept: _mean([values[pair] for pair in combinations(kept, 2)]), count)

    def total_variation(a: int, b: int) -> float:
        return (predictions[a] - predictions[b]).abs().sum(1).mean().item() / 2

    def disagreement(a: int, b: int) -> float:
        return (classes[a] != classes[b]).double().mean().item()

    found = PredictionDifference(images, count, over_pairs(total_variation), over_pairs(disagreement))
    if labels is None:
        return found
    right = [part == labels for part in classes]
    of_label = [part.gather(1, labels.unsqueeze(1)).squeeze(1) for part in predictions]

    def relative(a: int, b: int) -> float:
        return (2 * (of_label[a] - of_label[b]).abs() / (of_label[a] + of_label[b]).clamp_min(1e-300)).mean().item()

    def good_churn(a: int, b: int) -> float:
        return (~right[a] & right[b]).double().mean().item()

    def bad_churn(a: int, b: int) -> float:
        return (right[a] & ~right[b]).double().mean().item()

    accuracies = [part.double().mean().item() for part in right]
    return PredictionDifference(
        images, count, found.total_variation, found.disagreement, over_pairs(relative), over_pairs(good_churn),
        over_pairs(bad_churn), jackknife(lambda kept: _mean([accuracies[k] for k in kept]), count, least=2),
        tuple(accuracies),
    )  # fmt: skip


def jackknife(statistic: Callable[[Sequence[int]], float], count: int, least: int = 3) -> Estimate:
    """A statistic of all of `count` models, with the error that leaving out one at a time gives; None below `least`."""
    everyone = list(range(count))
    whole = statistic(everyone)
    if count < least:
        return Estimate(whole, None)
    without = [statistic([k for k in everyone if k != left]) for left in everyone]
    mean = _mean(without)
    return Estimate(whole, math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in without)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
