"""Prediction difference: figures against sums by hand, and errors by leaving models out."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from surgery.budget.prediction_difference import jackknife, prediction_difference
from surgery.errors import BadValue
from tests.surgery.budget.networks import batches, small_net

LABELS = torch.tensor([0, 1])


class Fixed(nn.Module):
    """Returns these probabilities for every batch."""

    def __init__(self, *rows: tuple[float, ...]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.log()


FIRST, SECOND = Fixed((0.5, 0.5 - 1e-6, 1e-6), (0.1, 0.8, 0.1)), Fixed((0.2, 0.7, 0.1), (0.1, 0.8, 0.1))
BATCH = [(torch.rand(2, 1), LABELS)]


def test_figures_are_those_by_hand() -> None:
    found = prediction_difference([FIRST, SECOND], BATCH)
    assert found.total_variation.mean == pytest.approx(0.3 / 2, abs=1e-5) and found.disagreement.mean == 0.5
    assert found.relative is not None and found.relative.mean == pytest.approx(0.3 / 0.35 / 2, abs=1e-5)
    assert found.good_churn is not None and found.good_churn.mean == 0.0
    assert found.bad_churn is not None and found.bad_churn.mean == 0.5
    assert found.accuracies == (1.0, 0.5) and found.accuracy is not None and found.accuracy.mean == 0.75
    assert (found.images, found.models, found.total_variation.error) == (2, 2, None)


def test_churn_is_counted_from_the_earlier_to_the_later() -> None:
    found = prediction_difference([SECOND, FIRST], BATCH)
    assert found.good_churn is not None and found.good_churn.mean == 0.5
    assert found.bad_churn is not None and found.bad_churn.mean == 0.0


def test_without_labels_there_is_no_accuracy() -> None:
    found = prediction_difference([small_net(seed) for seed in range(3)], batches())
    assert found.accuracy is None and found.relative is None and found.accuracies == ()
    assert 0 < found.total_variation.mean < 1 and found.total_variation.error is not None


def test_equal_models_do_not_differ() -> None:
    found = prediction_difference([small_net(), small_net(), small_net()], batches(labelled=True))
    assert found.total_variation.mean == found.disagreement.mean == found.total_variation.error == 0.0


def test_the_error_leaves_out_one_model_at_a_time() -> None:
    values = [1.0, 2.0, 4.0]
    found = jackknife(lambda kept: sum(values[k] for k in kept) / len(kept), 3)
    # For a mean it is the standard error of the mean.
    assert found.mean == pytest.approx(7 / 3) and found.error == pytest.approx(math.sqrt(14 / 3 / 2 / 3))


def test_it_prints_and_writes_json() -> None:
    found = prediction_difference([small_net(seed) for seed in range(3)], batches(labelled=True))
    assert str(found).startswith("3 models on 18 images") and "bad churn" in str(found) and "±" in str(found)
    assert json.loads(found.to_json())["models"] == 3 and found._repr_html_().count("<tr>") == 7


def test_bad_input_is_named() -> None:
    with pytest.raises(BadValue, match="needs two models"):
        prediction_difference([small_net()], batches())
    with pytest.raises(BadValue, match="scores of the same classes"):
        prediction_difference([FIRST, Fixed((0.5, 0.5), (0.5, 0.5))], BATCH)
    with pytest.raises(BadValue, match="iterated more than once"):
        prediction_difference([FIRST, SECOND], iter(BATCH))
