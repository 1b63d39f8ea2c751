"""PReLU: what the papers found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from surgery import activations
from surgery.activations.functions.prelu import PReLU
from surgery.schedule.weight_initialization import initialize

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


def test_prelu_is_torchs() -> None:
    assert isinstance(activations.build("prelu", 3), nn.PReLU)
