"""Line fits: lines, and pairs of lines that meet at zero, by weighted least squares on points."""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.simplification.points import Points


def line(points: Points) -> dict[str, Tensor]:
    """Slope and intercept of a line per column."""
    x, y, weights = points.columns
    total = weights.sum(0)
    mean, height = (weights * x).sum(0) / total, (weights * y).sum(0) / total
    spread = (weights * (x - mean).square()).sum(0)
    slope = (weights * (x - mean) * (y - height)).sum(0) / torch.where(spread > 0, spread, 1.0)
    return {"weight": slope, "bias": height - slope * mean}


def both_slopes(points: Points) -> dict[str, Tensor]:
    """The slopes right and left of zero per column; without inputs on a side, that of the function from 0 to +-1."""
    return {"positive": _slope(points, 1), "negative": _slope(points, -1)}


def negative_slope(points: Points) -> dict[str, Tensor]:
    """The slope left of zero per column."""
    return {"weight": _slope(points, -1)}


def one_negative_slope(points: Points) -> float:
    """The slope left of zero of all channels together, to six digits."""
    x, y = points.x.clamp_max(0), torch.where(points.x > 0, 0.0, points.y)
    weights = points.scale.square().reciprocal()
    square = (weights * x.square()).sum().item()
    return float(f"{(weights * x * y).sum().item() / square if square else 0.0:.6g}")


def _slope(points: Points, side: int) -> Tensor:
    x, y, weights = points.columns
    there = weights * (x * side > 0)
    square = (there * x.square()).sum(0)
    far = side * points.values(torch.full_like(x[:1], side))[0]
    return torch.where(square > 0, (there * x * y).sum(0) / torch.where(square > 0, square, 1.0), far)
