"""Piecewise fits: few intervals where few suffice, heights by least squares, sane where there is no input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.activations import PWLU
from surgery.simplification.piecewise_fit import pwlu
from surgery.simplification.points import Points


def points(function: nn.Module | object, shared: bool = False, channels: int = 3) -> Points:
    x = torch.randn(400, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Points(2 * x, function, shared)  # type: ignore[arg-type]


def made(values: dict[str, Tensor], intervals: int) -> PWLU:
    module = PWLU(len(values["left"]), intervals, axis=-1).requires_grad_(False)
    for name, value in values.items():
        module.get_parameter(name).copy_(value)
    return module


def test_two_corners_need_one_interval() -> None:
    capped = points(lambda rows: rows.clamp(-0.5, 1.3) + 0.1 * rows)
    assert capped.error(made(pwlu(capped, 1, [], 1e-2), 1)) < 1e-2


def test_the_present_bounds_are_tried() -> None:
    function = PWLU(3, 8, bound=2.7, axis=-1).requires_grad_(False)
    function.heights.copy_(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)))
    same = points(function.double())
    assert same.error(made(pwlu(same, 8, [(function.left, function.right)], 1e-6), 8)) < 1e-6


def test_every_channel_has_bounds_of_its_own() -> None:
    corners = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    shifted = points(lambda rows: (rows - corners).relu())
    assert shifted.error(made(pwlu(shifted, 1, [], 1e-2), 1)) < 1e-2


def test_more_intervals_come_closer() -> None:
    curved = points(torch.tanh)
    errors = [curved.error(made(pwlu(curved, count, [], 1.0), count)) for count in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


def test_shared_parameters_are_fitted_over_all_channels() -> None:
    capped = points(lambda rows: rows.clamp(-0.5, 1.3), shared=True)
    values = pwlu(capped, 1, [], 1e-2)
    assert values["heights"].shape == (2, 1) and capped.error(made(values, 1)) < 1e-2


def test_no_heights_are_better_between_the_same_bounds() -> None:
    curved = points(torch.sin)
    values = pwlu(curved, 3, [], 1.0)
    best = made(values, 3)
    error = (best(curved.x.float()).double() - curved.y).square().mean(0)
    for row in range(4):
        for step in (-1e-3, 1e-3):
            moved = values | {"heights": values["heights"] + step * torch.eye(4)[row].unsqueeze(1)}
            assert bool(((made(moved, 3)(curved.x.float()).double() - curved.y).square().mean(0) > error).all())


def test_without_inputs_on_a_side_the_slope_is_that_of_the_function() -> None:
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaky = Points(x, lambda rows: torch.where(rows > 0, rows, 0.25 * rows), shared=False)
    function = made(pwlu(leaky, 2, [(torch.full((2,), -1.0), torch.ones(2))], 1e-3), 2)
    assert torch.allclose(function(torch.full((1, 2), 2.0)), torch.full((1, 2), 2.0), atol=1e-4)
    assert leaky.error(function) < 1e-6


def test_constant_inputs_give_a_finite_function() -> None:
    constant = Points(torch.ones(50, 2, dtype=torch.float64), torch.tanh, shared=False)
    assert all(bool(value.isfinite().all()) for value in pwlu(constant, 2, [], 1e-3).values())
