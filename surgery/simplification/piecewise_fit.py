"""Piecewise fit: the best PWLU with a few intervals, heights by least squares between bounds found by search."""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.activations.functions.piecewise import region_of, summed, taken
from surgery.simplification.points import Points

_QUANTILES = (0.0, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
_OUTER = (0.0, 0.05, 0.95, 1.0)  # for more than two intervals
_COARSE = 256  # rows on which all bounds are compared
_STARTS = 4  # pairs of bounds that are refined, fewer the more intervals there are
_ROUNDS = 8  # of the search around them
_PROMISING = 30.0  # times the tolerance: a fit that is worse is not refined, of many intervals even less
_NARROWEST = 1e-3  # of the range of the inputs
_RIDGE = 1e-9  # how strongly heights where there is no input are held to the function


def pwlu(points: Points, intervals: int, present: list[tuple[Tensor, Tensor]], tolerance: float) -> dict[str, Tensor]:
    """The parameters of a PWLU with so many intervals; `present` are bounds (columns,) to try before all others.

    Its bounds are those with the smallest error among quantiles of the inputs, also shifted so that a knot falls on
    zero, and then near the best of them. Heights and outer slopes follow from them by least squares.
    """
    some = slice(0, _COARSE * (8 if points.shared else 1))  # rows are in random order
    left, right = _bounds(points, intervals, present)
    left, right = _best(points, intervals, left, right, max(_STARTS // intervals, 1), some)
    found, error = _least_squares(points, left[0], right[0], intervals)
    near = tolerance * (2 + _PROMISING / intervals)
    if bool((error <= near**2 * _size(points)).all()):
        if len(left) > 1:
            left, right = _refined(points, intervals, left, right, some)
            left, right = _best(points, intervals, left, right, 1, some)
        left, right = _refined(points, intervals, left, right)
        found, _ = _least_squares(points, left[0], right[0], intervals)
    left, right = left[0], right[0]
    return {"heights": found[1:-1], "left": left, "right": right, "low_slope": found[0], "high_slope": found[-1]}


def _bounds(points: Points, intervals: int, present: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of bounds (pairs, columns)."""
    x = points.columns[0]
    quantiles = torch.tensor(_OUTER if intervals > 2 else _QUANTILES, dtype=x.dtype)
    at = x[: 8 * _COARSE].quantile(quantiles, dim=0)
    first, second = torch.triu_indices(len(at), len(at), 1)
    left, right = at[first], _wide(points, at[first], at[second])
    step = (right - left) / intervals
    shift = left + step * (-left / step).round()  # where the knot nearest to zero lies
    pairs = [(left, right), (left - shift, right - shift)]
    pairs += [(low.to(x).expand_as(x[:1]), high.to(x).expand_as(x[:1])) for low, high in present]
    return torch.cat([low for low, _ in pairs]), torch.cat([high for _, high in pairs])


def _refined(
    points: Points, intervals: int, left: Tensor, right: Tensor, rows: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Bounds near each of these pairs with a smaller error.

    Each round tries eight neighbours, and goes to the best one, or halves their distance if there is no better one.
    """
    moves = torch.cartesian_prod(*[torch.tensor([0.0, -1.0, 1.0], dtype=left.dtype)] * 2)
    to_left, to_right = (part.reshape(-1, 1, 1) for part in moves.T)
    step = (right - left) / (2 * max(intervals, 2))
    for _ in range(_ROUNDS):
        lows = left + to_left * step
        highs = _wide(points, lows, right + to_right * step)
        _, errors = _least_squares(points, lows.flatten(), highs.flatten(), intervals, rows)
        best = errors.reshape(lows.shape).argmin(0, keepdim=True)
        left, right = lows.gather(0, best)[0], highs.gather(0, best)[0]
        step = torch.where(best[0] == 0, step / 2, step)
    return left, right


def _best(
    points: Points, intervals: int, left: Tensor, right: Tensor, count: int, rows: slice
) -> tuple[Tensor, Tensor]:
    """For each column so many pairs of bounds (count, columns) with the smallest errors, best first."""
    _, errors = _least_squares(points, left.flatten(), right.flatten(), intervals, rows)
    best = errors.reshape(left.shape).argsort(dim=0, stable=True)[:count]
    return left.gather(0, best), right.gather(0, best)


def _least_squares(
    points: Points, left: Tensor, right: Tensor, intervals: int, rows: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Outer slopes and heights (N + 3, pairs columns) in order, and the mean squares of what remains.

    Each input concerns the two parameters beside it, so that the normal equations are tridiagonal. They are solved for
    the residual of interpolation: what is exact stays exact, and parameters without inputs those of the function.
    """
    columns = points.columns[0].shape[1]
    x, y, weights = (part[rows].repeat(1, len(left) // columns) for part in points.columns)
    region = region_of(x, left, right, intervals)
    place = (x - left) * (intervals / (right - left)) - (region - 1)
    below, above = region == 0, region > intervals
    before = torch.where(below, x - left, torch.where(above, 1.0, 1 - place))
    behind = torch.where(below, 1.0, torch.where(above, x - right, place))

    guess = _interpolated(points, left, right, intervals)
    rest = y - before * taken(guess, region) - behind * taken(guess, region + 1)
    size = intervals + 2
    first, mixed, second = (
        summed(weights * a * b, region, size) for a, b in ((before, before), (before, behind), (behind, behind))
    )
    none = torch.zeros_like(left)[None]
    diagonal = torch.cat([first, none]) + torch.cat([none, second])
    wanted = torch.cat([summed(weights * before * rest, region, size), none])
    wanted = wanted + torch.cat([none, summed(weights * behind * rest, region, size)])
    held = diagonal + _RIDGE * diagonal.amax(0).clamp_min(torch.finfo(x.dtype).tiny)
    matrix = torch.diag_embed(held.T) + torch.diag_embed(mixed.T, 1) + torch.diag_embed(mixed.T, -1)
    moved = torch.linalg.solve(matrix, wanted.T).T
    rest = rest - before * taken(moved, region) - behind * taken(moved, region + 1)
    return guess + moved, (weights * rest.square()).sum(0) / weights.sum(0)


def _interpolated(points: Points, left: Tensor, right: Tensor, intervals: int) -> Tensor:
    """Outer slopes and heights (N + 3, pairs columns) of the function itself, at the knots and half a range beyond."""
    columns = points.columns[0].shape[1]
    steps = torch.arange(-1, intervals + 2, dtype=left.dtype).unsqueeze(1)
    steps[0], steps[-1] = -intervals / 2, 1.5 * intervals
    knots = left + steps * ((right - left) / intervals)
    values = points.values(knots.reshape(-1, columns)).reshape(knots.shape)
    half = (right - left) / 2
    low, high = (values[1] - values[0]) / half, (values[-1] - values[-2]) / half
    return torch.cat([low[None], values[1:-1], high[None]])


def _wide(points: Points, left: Tensor, right: Tensor) -> Tensor:
    """The right bounds, moved so that an interval has some width."""
    x = points.columns[0]
    least = _NARROWEST * (x.amax(0) - x.amin(0)).clamp_min(_NARROWEST * (1 + x.abs().amax(0)))
    return torch.maximum(right, left + least)


def _size(points: Points) -> Tensor:
    """The mean square (columns,) that a fit's remaining error is compared with."""
    _, _, weights = points.columns
    return points.scale.square() if not points.shared else weights.mean().reciprocal().reshape(1)
