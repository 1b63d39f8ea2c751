"""Intervals: standard errors against those by hand."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.predictions.intervals import Estimate, jackknife, mean_and_error


def test_the_error_leaves_out_one_model_at_a_time() -> None:
    values = [1.0, 2.0, 4.0]
    found = jackknife(lambda kept: sum(values[k] for k in kept) / len(kept), 3)
    # For a mean it is the standard error of the mean.
    assert found.mean == pytest.approx(7 / 3) and found.error == pytest.approx(math.sqrt(14 / 3 / 2 / 3))
    assert found.error == pytest.approx(mean_and_error(torch.tensor(values))[1])


def test_a_single_value_has_no_spread() -> None:
    assert mean_and_error(torch.tensor([2.0])) == (2.0, 0.0)


def test_an_estimate_prints_its_95_percent_interval() -> None:
    assert str(Estimate(0.25, 0.01)) == "0.2500 ± 0.0196"
