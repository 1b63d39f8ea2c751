"""Line fits are least squares, as torch's own solver has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.simplification.line_fits import both_slopes, line, negative_slope, one_negative_slope
from surgery.simplification.points import Points


def bent(shared: bool = False) -> Points:
    """Sines of normal inputs, three channels of different widths."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Points(x * torch.tensor([0.5, 1.0, 2.0]), lambda rows: rows.sin() + 0.3, shared)


def solved(columns: list[Tensor], wanted: Tensor, weights: Tensor) -> Tensor:
    root = weights.sqrt().unsqueeze(1)
    return torch.linalg.lstsq(torch.stack(columns, 1) * root, wanted.unsqueeze(1) * root).solution.flatten()


@pytest.mark.parametrize("shared", [False, True])
def test_a_line_and_two_slopes_are_least_squares(shared: bool) -> None:
    points = bent(shared)
    for number, (x, y, weights) in enumerate(zip(*(part.T for part in points.columns), strict=True)):
        slope, intercept = solved([x, torch.ones_like(x)], y, weights)
        found = line(points)
        assert torch.allclose(found["weight"][number], slope) and torch.allclose(found["bias"][number], intercept)
        positive, negative = solved([x.clamp_min(0), x.clamp_max(0)], y, weights)
        found = both_slopes(points)
        assert torch.allclose(found["positive"][number], positive)
        assert torch.allclose(found["negative"][number], negative)
        assert torch.equal(negative_slope(points)["weight"], found["negative"])


def test_one_slope_for_all_channels_is_the_shared_fit() -> None:
    assert one_negative_slope(bent()) == pytest.approx(negative_slope(bent(shared=True))["weight"].item(), rel=1e-5)


def test_without_inputs_on_a_side_the_slope_is_that_of_the_function() -> None:
    positive = Points(torch.rand(50, 2, dtype=torch.float64), lambda rows: rows.clamp_min(0.25 * rows), shared=False)
    assert negative_slope(positive)["weight"].tolist() == [0.25, 0.25]
    assert one_negative_slope(positive) == 0.0


def test_a_constant_input_gives_a_finite_line() -> None:
    constant = Points(torch.ones(10, 2, dtype=torch.float64), lambda rows: 3 * rows, shared=False)
    assert line(constant)["weight"].tolist() == [0.0, 0.0] and line(constant)["bias"].tolist() == [3.0, 3.0]
