"""Damage: divergences and accuracies against sums by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from surgery.errors import BadFile, BadValue
from surgery.predictions.damage import FARTHEST, Damage, Reference, log_probabilities, outputs_of
from tests.surgery.budget.networks import as_batches

BEFORE = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
AFTER = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]).log()
LABELS = torch.tensor([0, 1])


def reference(labels: Tensor | None = LABELS) -> Reference:
    """Two images in two batches."""
    parts = [None, None] if labels is None else [labels[:1], labels[1:]]
    return Reference.of([BEFORE[:1], BEFORE[1:]], parts)


def test_the_divergence_is_forward_from_the_predictions_before() -> None:
    found = reference().damage([AFTER])
    first = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert found.kl == pytest.approx(first / 2) and found.images == 2
    assert found.error == pytest.approx(first / 2)  # two images, one of them at 0: (first / sqrt 2) / sqrt 2


def test_the_change_of_accuracy_is_paired() -> None:
    found = reference().damage([AFTER])
    assert found.accuracy == -0.5 and found.accuracy_error == pytest.approx(0.5)
    assert reference(None).damage([AFTER]).accuracy is None


def test_no_edit_does_no_damage() -> None:
    assert reference().damage([BEFORE + 3.0]) == Damage(
        pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12), 2, 0, 0
    )


def test_accuracy_and_loss_before_are_known_with_labels() -> None:
    found = reference()
    assert found.accuracy == 1.0 and found.loss == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    entropies = [1.5 * math.log(2), -0.8 * math.log(0.8) - 0.2 * math.log(0.1)]
    assert found.entropy == pytest.approx(sum(entropies) / 2)
    assert reference(None).accuracy is None and reference(None).loss is None


def test_the_first_images_alone_have_their_own_damage() -> None:
    assert len(reference()) == 2 and len(reference().first(1)) == 1
    assert reference().first(1).damage([AFTER[:1]]).kl == pytest.approx(2 * reference().damage([AFTER]).kl)


def test_predictions_for_pixels_count_as_one_each() -> None:
    pixels = torch.stack([BEFORE, BEFORE], -1)
    changed = torch.stack([AFTER, BEFORE], -1)
    found = Reference.of([pixels], [None]).damage([changed])
    assert found.kl == pytest.approx(reference().damage([AFTER]).kl / 2)


def test_scores_that_explode_do_the_farthest_damage() -> None:
    found = reference().damage([torch.full((2, 3), torch.nan)])
    assert (found.kl, found.error) == (FARTHEST, 0.0)
    assert json.loads(json.dumps(found.to_data(), allow_nan=False))["kl"] == FARTHEST


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2]])
def test_labels_that_are_no_class_are_named(labels: list[int]) -> None:
    with pytest.raises(BadValue, match="no class of the network"):
        Reference.of([torch.randn(2, 3)], [torch.tensor(labels)])


@pytest.mark.parametrize("outputs", [torch.rand(4), torch.rand(4, 1), torch.zeros(4, 3).long(), {"scores": 3}])
def test_what_is_no_classifier_is_refused(outputs: Tensor) -> None:
    with pytest.raises(BadValue, match="does not return scores of classes"):
        log_probabilities([outputs])


def test_infinite_scores_before_the_edit_are_refused() -> None:
    with pytest.raises(BadValue, match="infinite scores"):
        log_probabilities([torch.full((2, 3), torch.inf)])


def test_another_shape_is_refused() -> None:
    with pytest.raises(BadValue, match="another shape"):
        reference().damage([torch.rand(2, 5)])


def test_the_interval_is_of_95_percent_and_not_below_0() -> None:
    assert Damage(0.1, 0.01, 9).interval == pytest.approx((0.0804, 0.1196))
    assert Damage(0.01, 0.01, 9).interval[0] == 0.0


def test_a_damage_prints_and_survives_a_file() -> None:
    found = Damage(0.1, 0.01, 9, -0.02, 0.01)
    assert str(found) == "0.1 ± 0.02, -2.00 ± 1.96 points" and str(Damage(0.1, 0.01, 9)) == "0.1 ± 0.02"
    assert Damage.from_data(found.to_data()) == found
    with pytest.raises(BadFile, match="not a measured damage"):
        Damage.from_data({"harm": 1})


def test_a_batch_that_fails_is_named() -> None:
    with pytest.raises(BadValue, match="Batch 1 fails in Linear"):
        outputs_of(nn.Linear(2, 2), as_batches())
