"""Statements of the papers about their functions, verified."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations.functions.helu import HeLU
from surgery.activations.functions.prelu import PReLU
from surgery.activations.functions.simple import QuickGELU
from surgery.activations.functions.smelu import SmeLU
from surgery.activations.functions.swish import Swish
from surgery.schedule.weight_initialization import initialize

STEP = 2.0**-10  # a power of two, so that every point is exact
LINE = torch.arange(-8192, 8193, dtype=torch.float64) * STEP


def derivative(function: Callable[[Tensor], Tensor], x: Tensor = LINE) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


# XOR by one PReLU unit: Pinto and Tavares 2024, arXiv 2409.10821.

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = 200


def solved(inputs: Tensor, steps: int) -> Tensor:
    """Whether one PReLU unit without bias, with three parameters, learns XOR, by rate and seed (rates, seeds)."""
    units = len(RATES) * SEEDS
    targets = torch.tensor([0.0, 1.0, 1.0, 0.0]).unsqueeze(1)
    # All units at once: their losses are added, so no gradient knows of another unit.
    weights = nn.Parameter((torch.rand(2, SEEDS) * 2 - 1).mul(math.sqrt(0.5)).repeat(1, len(RATES)))
    unit = PReLU(units, 0.25)
    rates = torch.tensor(RATES).repeat_interleave(SEEDS)
    assert weights[:, 0].numel() + unit.weight[0].numel() == 3
    for _ in range(steps):
        loss = (unit(inputs @ weights) - targets).square().mean(0).sum()
        gradients = torch.autograd.grad(loss, (weights, unit.weight))
        with torch.no_grad():
            weights -= rates * gradients[0]
            unit.weight -= rates * gradients[1]
    right = ((unit(inputs @ weights) > 0.5) == (targets > 0.5)).all(0)
    return right.view(len(RATES), SEEDS)


CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def test_one_prelu_unit_solves_xor() -> None:
    assert solved(2 * CORNERS - 1, 1000).all(), "every seed, at every rate"


def test_one_prelu_unit_does_not_when_zero_is_an_input() -> None:
    share = solved(CORNERS, 1000).float().mean(1)
    assert ((share > 0.4) & (share < 0.8)).all(), f"no plateau: {share.tolist()}"


# He et al. 2015, arXiv 1502.01852: thirty layers.


def plain(kind: str) -> nn.Sequential:
    """Thirty layers with ReLUs, no norm, no shortcut."""
    layers: list[nn.Module] = []
    for _ in range(30):
        circular = nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular")
        layers += [circular if kind == "conv" else nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*layers)


def passed(model: nn.Sequential, x: Tensor) -> tuple[Tensor, float, float]:
    """Mean square after each ReLU over that of the input; least and greatest gradient of a layer over the last's."""
    squares = []
    for layer in model:
        before, x = x, layer(x)
        if isinstance(layer, nn.ReLU):
            squares.append(x.square().mean())
            assert before.shape == x.shape
    x.backward(torch.randn_like(x))
    sizes = [layer.weight.grad.square().mean().item() for layer in model if not isinstance(layer, nn.ReLU)]
    return torch.stack(squares).detach(), min(sizes) / sizes[-1], max(sizes) / sizes[-1]


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_he_carries_thirty_layers_where_xavier_does_not(kind: str) -> None:
    x = torch.randn(4, 64, 6, 6) if kind == "conv" else torch.randn(32, 128)
    model = plain(kind)
    initialize(model, x)
    squares, least, greatest = passed(model, x)
    # At finite width it wanders, by chance and without a trend that would be a factor per layer.
    assert squares.min() > 0.02 and squares.max() < 50, squares
    assert least > 0.01 and greatest < 100

    for layer in model:
        if not isinstance(layer, nn.ReLU):
            nn.init.xavier_normal_(layer.weight)
    model.zero_grad()
    squares, *_ = passed(model, x)
    # Half of the mean square is lost in every layer: 2^-30 is 1e-9.
    assert squares[-1] < 1e-7
    assert 0.3 < (squares[-1] / squares[0]) ** (1 / 29) < 0.7


# HeLU and SmeLU are ReLU where their parameter vanishes: arXiv 2411.10573 and 2010.09931.


def test_helu_is_relu_as_alpha_vanishes() -> None:
    relu = derivative(F.relu)
    wrong = []
    for alpha in (1.0, 0.125, STEP, 0.0):
        helu = HeLU(alpha)
        assert torch.equal(helu(LINE), F.relu(LINE)), "forward it is one at any alpha"
        apart = derivative(helu) != relu
        # x > -alpha, strictly; at 0 itself ReLU passes nothing.
        assert torch.equal(apart, (-alpha < LINE) & (LINE <= 0))
        wrong.append(int(apart.sum()))
    assert wrong == [1024, 128, 1, 0]
    assert torch.equal(derivative(HeLU(1.0).eval()), relu)


@pytest.mark.parametrize("beta", [4.0, 1.0, 0.25, 2.0**-10])
def test_smelu_is_relu_within_a_quarter_of_beta(beta: float) -> None:
    smelu = SmeLU(beta=beta)
    error = (smelu(LINE) - F.relu(LINE)).abs()
    assert error.max() == beta / 4
    assert LINE[error.argmax()] == 0
    assert not error[LINE.abs() >= beta].any()


@given(st.floats(0.01, 4), st.floats(-6, 6))
def test_smelu_is_relu_averaged_over_a_box(beta: float, at: float) -> None:
    # The mean of ReLU over (x - beta, x + beta), by midpoints.
    points = 2000
    box = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * beta / points) - beta
    averaged = F.relu(at + box).mean()
    smooth = SmeLU(beta=beta).double()(torch.tensor([at], dtype=torch.float64)).item()
    assert abs(smooth - averaged.item()) < 1e-6 * (1 + beta)


# Swish: Ramachandran et al. 2017, arXiv 1710.05941.


@pytest.mark.parametrize("beta", [1.0, 4.0, 16.0, 64.0])
def test_swish_is_relu_as_beta_grows(beta: float) -> None:
    error = (Swish(beta=beta)(LINE) - F.relu(LINE)).abs().max().item()
    assert math.isclose(error, 0.27846 / beta, rel_tol=1e-2 if beta == 64 else 1e-4)


def test_swish_between_its_ends() -> None:
    assert torch.allclose(Swish()(LINE), F.silu(LINE), rtol=0, atol=1e-15)
    assert torch.equal(Swish(beta=0)(LINE), LINE / 2)
    swish = Swish()(LINE)
    assert math.isclose(swish.min().item(), -0.27846, abs_tol=1e-5)
    assert math.isclose(LINE[swish.argmin()].item(), -1.278, abs_tol=STEP)
    slope = derivative(Swish())
    assert math.isclose(slope.min().item(), -0.0998, abs_tol=1e-4)
    assert math.isclose(slope.max().item(), 1.0998, abs_tol=1e-4)


# GELU: Hendrycks and Gimpel 2016; its derivative in Lee 2023, arXiv 2305.12073, is quoted too small.


def test_gelu() -> None:
    gelu, slope = F.gelu(LINE), derivative(F.gelu)
    assert math.isclose(gelu.min().item(), -0.16997, abs_tol=1e-5)
    assert math.isclose(LINE[gelu.argmin()].item(), -0.7518, abs_tol=STEP)
    assert math.isclose(slope.max().item(), 1.1289, abs_tol=5e-5)
    assert math.isclose(LINE[slope.argmax()].item(), math.sqrt(2), abs_tol=STEP)
    assert math.isclose(slope.min().item(), 1 - slope.max().item(), abs_tol=1e-7)


@pytest.mark.parametrize(
    ("form", "error", "place"), [(nn.GELU(approximate="tanh"), 4.73e-4, 2.7), (QuickGELU(), 0.0203, 2.27)]
)
def test_forms_of_gelu(form: nn.Module, error: float, place: float) -> None:
    apart = (form(LINE) - F.gelu(LINE)).abs()
    assert math.isclose(apart.max().item(), error, rel_tol=5e-3)
    assert math.isclose(LINE[apart.argmax()].abs().item(), place, abs_tol=0.05)
