"""Prediction difference: how much networks that were trained alike, or edited, differ in what they predict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import BadValue
from surgery.model import check_plain
from surgery.predictions.damage import Reference, reference_of
from surgery.predictions.intervals import SURE, Estimate, jackknife, mean_and_error
from surgery.repair.batches import batches_of, check_repeatable
from surgery.text import html_table, table

_COLUMNS = ("", "mean", "95 %")
_LEAST = 1e-300  # probability: of two that are zero the difference is zero, too
_NAMES = {
    "total_variation": "total variation", "disagreement": "disagreement", "relative": "relative, true class",
    "good_churn": "good churn", "bad_churn": "bad churn", "accuracy": "accuracy",
    "ensemble_accuracy": "accuracy of the ensemble",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class PredictionDifference:
    """How much models differ in their predictions for `images` images, as means over all pairs of models.

    `total_variation` is half the sum of the absolute differences of probabilities, `disagreement` the fraction of
    images with different most likely classes. With labels: `relative` is the difference of the probabilities of the
    true class over their mean, `good_churn` the fraction of images that only the later model gets right, `bad_churn`
    that only the earlier one does, `accuracy` the mean accuracy and `accuracies` those of each model,
    `ensemble_accuracy` that of the mean of their probabilities. All but `relative` are in [0, 1], that in [0, 2].

    Errors are over models, which are left out one at a time: pairs that share a model are not independent. Those of two
    models are over images.
    """

    images: int
    models: int
    total_variation: Estimate
    disagreement: Estimate
    relative: Estimate | None = None
    good_churn: Estimate | None = None
    bad_churn: Estimate | None = None
    accuracy: Estimate | None = None
    ensemble_accuracy: Estimate | None = None
    accuracies: tuple[float, ...] = ()

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def __repr__(self) -> str:
        return f"<PredictionDifference: {self._head()}>"

    def __str__(self) -> str:
        return "\n".join([self._head(), *(f"  {line}" for line in (*table(_COLUMNS, self._rows()), *self._each()))])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), above=[self._head()], below=self._each())

    def _head(self) -> str:
        return f"{self.models} models on {self.images:,} images"

    def _rows(self) -> list[tuple[str, ...]]:
        found = [(text, getattr(self, name)) for name, text in _NAMES.items()]
        return [
            (text, f"{value.mean:.4f}", f"± {SURE * value.error:.4f}") for text, value in found if value is not None
        ]

    def _each(self) -> list[str]:
        listed = ", ".join(f"{accuracy:.4f}" for accuracy in self.accuracies)
        return [f"accuracy of each: {listed}"] if listed else []


def prediction_difference(models: Sequence[nn.Module], batches: Iterable[Any]) -> PredictionDifference:
    """Measure how much two or more models differ in what they predict for the same images.

    Two trainings of one network, or a network before and after surgery, may be equally accurate and still disagree on
    many images. `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image". Models are run in eval
    mode and left as they were; with labels, churn is counted from each model to those after it. They return scores
    (N, C, ...); positions behind the classes, such as the pixels of a segmentation, count as one prediction each, and
    have no labels.

    Raises:
        BadValue: fewer than two models; the batches are empty, can be read only once or fail in a model; the models do
            not return scores of the same classes; or a label is none of these.

    Source: total variation as prediction difference: Shamir, Lin and Coviello 2020, "Smooth activations and
    reproducibility in deep networks", arXiv 2010.09931; churn: Milani Fard et al. 2016, "Launch and iterate".

    >>> edited, report = surgery.transform(model, surgery.erase_relu())
    >>> print(surgery.prediction_difference([model, edited], batches))  # how much the surgery changed
    """
    listed = list(models)
    if len(listed) < 2:
        raise BadValue("A difference needs two models.", asked=f"{len(listed)} model{'s' if len(listed) != 1 else ''}")
    for model in listed:
        check_plain(model)
    check_repeatable(batches)
    kept = list(batches_of(batches, listed[0]))
    found = [reference_of(model, kept) for model in listed]
    shapes = {tuple(part.logs.shape) for part in found}
    if len(shapes) > 1:
        raise BadValue(
            "The models do not return scores of the same classes.", asked=", ".join(map(str, sorted(shapes)))
        )
    return _compared(found)


def _compared(found: Sequence[Reference]) -> PredictionDifference:
    """The differences of the predictions of all models."""
    count, images, labels = len(found), len(found[0]), found[0].labels
    shares = [part.logs.exp() for part in found]
    classes = [part.argmax(1) for part in shares]

    def estimate(values: Callable[[Sequence[int]], Tensor]) -> Estimate:
        """The mean of values (N, ...) that depend on which models are kept."""
        if count == 2:
            return Estimate(*mean_and_error(values((0, 1)).double().reshape(images, -1).mean(1)))
        return jackknife(lambda kept: values(kept).double().mean().item(), count)

    def over_pairs(value: Callable[[int, int], Tensor]) -> Estimate:
        values = {pair: value(*pair) for pair in combinations(range(count), 2)}
        return estimate(lambda kept: _mean([values[pair] for pair in combinations(kept, 2)]))

    total_variation = over_pairs(lambda a, b: (shares[a] - shares[b]).abs().sum(1) / 2)
    disagreement = over_pairs(lambda a, b: classes[a] != classes[b])
    if labels is None:
        return PredictionDifference(images, count, total_variation, disagreement)
    right = [part == labels for part in classes]
    of_label = [part.gather(1, labels.unsqueeze(1)).clamp_min(_LEAST) for part in shares]
    return PredictionDifference(
        images, count, total_variation, disagreement,
        relative=over_pairs(lambda a, b: 2 * (of_label[a] - of_label[b]).abs() / (of_label[a] + of_label[b])),
        good_churn=over_pairs(lambda a, b: ~right[a] & right[b]),
        bad_churn=over_pairs(lambda a, b: right[a] & ~right[b]),
        accuracy=estimate(lambda kept: _mean([right[k] for k in kept])),
        ensemble_accuracy=estimate(lambda kept: _mean([shares[k] for k in kept]).argmax(1) == labels),
        accuracies=tuple(part.double().mean().item() for part in right),
    )  # fmt: skip


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).double().mean(0)
