"""Piecewise linear loops: knots, ties and bounds."""

from __future__ import annotations

import pytest
import torch

from surgery.activations import dispatch as forms
from surgery.activations.functions.piecewise import PWLU
from tests.surgery.activations.kernels.beside_torch import assert_near, outcome, random


def test_ties_and_bounds_fall_where_they_do_in_the_closed_form() -> None:
    knots = torch.linspace(-2, 2, 9)
    near = torch.cat([knots, knots.nextafter(knots - 1), knots.nextafter(knots + 1)])
    x, grad = near.repeat(2, 1).T.contiguous(), random(27, 2, seed=1)
    heights = knots.square().unsqueeze(1).repeat(1, 2)
    for axis in (0, 1):
        params = [heights[:, :1], *(torch.tensor([number]) for number in (-2.0, 2.0, 0.5, 3.0))] if axis else [
            heights, *(torch.tensor([number, number]) for number in (-2.0, 2.0, 0.5, 3.0))
        ]  # fmt: skip
        found, wanted = (outcome(form, "pwlu", x, 1, params, grad) for form in ("fused", "closed"))
        torch.testing.assert_close(found, wanted)
        assert torch.equal(found[1], wanted[1])
    beta = torch.tensor([0.5])
    at = torch.tensor([-0.5, 0.5, 0.0])
    found, wanted = (outcome(form, "smelu", at, 0, [beta], torch.ones(3)) for form in ("fused", "closed"))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("intervals", [1, 5, 16, 40])
def test_a_relu_with_a_knot_at_zero_is_exact(intervals: int) -> None:
    knots = torch.arange(intervals + 1) * 0.25 - 0.25 * (intervals // 2)
    ends = [knots[:1], knots[-1:], torch.zeros(1), torch.ones(1)]
    x = random(3, 5, 7, 9) * 3
    with forms.only("fused"):
        y = forms.apply(PWLU, x, 1, knots.relu().unsqueeze(1), *ends)
    assert intervals == 1 or torch.equal(y, x.relu())
    assert_near([y], [forms.apply(PWLU, x.double(), 1, knots.relu().unsqueeze(1).double(), *ends)])
