"""Points: samples are uniform and bounded, and errors are relative to the deviation of the channel."""

from __future__ import annotations

import torch
from torch import nn

from surgery.simplification.points import Points, Sample, scale_of, worst


def test_all_rows_are_kept_while_they_are_few() -> None:
    sample, rows = Sample(), torch.randn(300, 4)
    for part in rows.split(70):
        sample.add(part)
    assert torch.equal(sample.rows.sort(dim=0).values, rows.sort(dim=0).values)


def test_a_sample_of_many_rows_is_uniform_over_all_batches() -> None:
    sample = Sample()
    for number in range(10):
        sample.add(torch.full((1000, 64), float(number)))
    counts = torch.bincount(sample.rows[:, 0].long(), minlength=10)
    assert len(sample.rows) == 1024
    assert counts.min() > 60 and counts.max() < 150  # 102 each, give or take 10


def test_the_error_is_that_of_the_worst_channel_over_its_deviation() -> None:
    x = torch.randn(500, 2, dtype=torch.float64)
    points = Points(x, lambda rows: rows * torch.tensor([1.0, 10.0]), shared=False)
    apart, deviation = (points.y - x.float().relu()).square().mean(0).sqrt(), points.y.std(0, correction=0)
    assert abs(points.error(nn.ReLU()) - (apart / deviation).max().item()) < 1e-6


def test_a_constant_channel_counts_as_if_it_varied_a_little() -> None:
    mean, square = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 4.0])
    scale = scale_of(mean, square)
    assert torch.allclose(scale, torch.tensor([1e-3 * 2.5**0.5, 2.0]))
    assert scale_of(torch.zeros(2), torch.zeros(2)).tolist() == [1.0, 1.0]
    assert worst(torch.zeros(2), scale) == 0.0


def test_shared_parameters_see_all_channels_in_units_of_their_deviation() -> None:
    x = torch.randn(50, 3, dtype=torch.float64)
    points = Points(x, lambda rows: rows * torch.tensor([1.0, 2.0, 3.0]), shared=True)
    inputs, values, weights = points.columns
    assert inputs.shape == values.shape == weights.shape == (150, 1)
    relative = (weights * values.square()).reshape(50, 3).mean(0) / (points.y / points.scale).square().mean(0)
    assert torch.allclose(relative, torch.ones(3, dtype=torch.float64))
