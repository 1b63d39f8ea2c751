"""Prediction difference: figures against sums by hand, of retrained models and of edited ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import BadValue
from surgery.predictions.prediction_difference import prediction_difference
from tests.surgery.budget.networks import batches, images, small_net

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
    assert found.ensemble_accuracy is not None and found.ensemble_accuracy.mean == 0.5  # the means are .35, .6, .05
    assert (found.images, found.models) == (2, 2)


def test_errors_of_two_models_are_over_images_and_of_more_over_models() -> None:
    pair = prediction_difference([FIRST, SECOND], BATCH)
    assert pair.total_variation.error == pytest.approx(0.15, abs=1e-5)  # 0.3 and 0: (0.3 / sqrt 2) / sqrt 2
    three = prediction_difference([FIRST, SECOND, SECOND], BATCH)
    assert three.disagreement.mean == pytest.approx(1 / 3)  # of three pairs two differ, on one of two images
    # Without one model 0, 1/2 and 1/2: the deviations are 1/3, 1/6 and 1/6.
    assert three.disagreement.error == pytest.approx((2 / 3 * (1 / 9 + 2 / 36)) ** 0.5)


def test_churn_is_counted_from_the_earlier_to_the_later() -> None:
    found = prediction_difference([SECOND, FIRST], BATCH)
    assert found.good_churn is not None and found.good_churn.mean == 0.5
    assert found.bad_churn is not None and found.bad_churn.mean == 0.0


def test_without_labels_there_is_no_accuracy() -> None:
    found = prediction_difference([small_net(seed) for seed in range(3)], batches())
    assert found.accuracy is None and found.relative is None and found.accuracies == ()
    assert 0 < found.total_variation.mean < 1 and found.total_variation.error > 0


def test_equal_models_do_not_differ() -> None:
    found = prediction_difference([small_net(), small_net(), small_net()], batches(labelled=True))
    assert found.total_variation.mean == found.disagreement.mean == found.total_variation.error == 0.0


def test_it_tells_how_much_surgery_changed() -> None:
    model = small_net()
    same, _ = surgery.transform(model, surgery.swap("pwlu"), images(2))  # begins as the ReLU
    erased, _ = surgery.transform(model, surgery.erase(), images(2))
    assert prediction_difference([model, same], batches()).total_variation.mean < 1e-5
    found = prediction_difference([model, erased], batches(labelled=True))
    assert found.total_variation.mean > 0.01 and found.good_churn is not None and found.bad_churn is not None
    before, after = found.accuracies
    assert after - before == pytest.approx(found.good_churn.mean - found.bad_churn.mean)
    assert str(found).endswith(f"accuracy of each: {before:.4f}, {after:.4f}")


def test_pixels_count_as_one_prediction_each() -> None:
    def spread(model: Fixed) -> Fixed:
        model.rows = torch.stack([model.rows, SECOND.rows], -1)
        return model

    segmenting = [spread(Fixed(*model.rows.tolist())) for model in (FIRST, SECOND)]
    found = prediction_difference(segmenting, BATCH)
    assert found.disagreement.mean == 0.25 and found.accuracy is None and found.images == 2


def test_it_prints_and_writes_json() -> None:
    found = prediction_difference([small_net(seed) for seed in range(3)], batches(labelled=True))
    assert str(found).startswith("3 models on 18 images") and "bad churn" in str(found) and "±" in str(found)
    assert json.loads(found.to_json())["models"] == 3 and found._repr_html_().count("<tr>") == 8


def test_bad_input_is_named() -> None:
    with pytest.raises(BadValue, match="needs two models"):
        prediction_difference([small_net()], batches())
    with pytest.raises(BadValue, match="scores of the same classes"):
        prediction_difference([FIRST, Fixed((0.5, 0.5), (0.5, 0.5))], BATCH)
    with pytest.raises(BadValue, match="no class of the network"):
        prediction_difference([FIRST, SECOND], [(torch.rand(2, 1), LABELS + 2)])
    with pytest.raises(BadValue, match="iterated more than once"):
        prediction_difference([FIRST, SECOND], iter(BATCH))
