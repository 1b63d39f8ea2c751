"""Affine: a line per channel, the best line behind a norm, and the function it remembers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations.functions.affine import Affine, best_line
from surgery.errors import BadValue


class Rectified(nn.Module):
    """ReLU under another name, which is integrated instead of looked up."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)


def drawn(function: Callable[[Tensor], Tensor], mean: float, deviation: float) -> tuple[float, float]:
    """Slope and intercept fitted to a million numbers, each half a mirror of the other."""
    half = torch.randn(500_000, dtype=torch.float64)
    z = mean + deviation * torch.cat([half, -half])
    value = function(z)
    slope = float(((z - mean) * value).mean() / (z - mean).square().mean())
    return slope, float(value.mean()) - slope * mean


@given(st.floats(-5, 5), st.floats(0.01, 5))
def test_the_closed_form_for_relu_is_what_integration_gives(mean: float, deviation: float) -> None:
    m, s = torch.tensor([mean]), torch.tensor([deviation])
    exact, summed = best_line(nn.ReLU(), m, s), best_line(Rectified(), m, s)
    for got, other in zip(exact, summed, strict=True):
        torch.testing.assert_close(other, got, rtol=0, atol=2e-5 * max(1.0, deviation, abs(mean)))


@pytest.mark.parametrize(
    ("module", "function"),
    [(nn.GELU(), F.gelu), (nn.Hardswish(), F.hardswish), (nn.ReLU6(), F.relu6), (nn.ReLU(inplace=True), F.relu)],
)
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.5, 0.7), (2.0, 3.0)])
def test_the_line_is_the_least_squares_fit_to_random_numbers(
    module: nn.Module, function: Callable[[Tensor], Tensor], mean: float, deviation: float
) -> None:
    slope, intercept = best_line(module, torch.tensor([mean]), torch.tensor([deviation]))
    wanted = drawn(function, mean, deviation)
    assert (float(slope), float(intercept)) == pytest.approx(wanted, abs=8e-3)
    assert float(slope) != pytest.approx(1.0, abs=0.02), "the identity would pass"


@pytest.mark.parametrize("kind", [nn.ReLU, Rectified, nn.GELU])
@pytest.mark.parametrize("mean", [-2.0, 0.0, 1.5])
def test_a_constant_input_gets_the_tangent_through_its_value(kind: type[nn.Module], mean: float) -> None:
    function, m = kind(), torch.tensor([mean], dtype=torch.float64)
    slope, intercept = best_line(function, m, torch.zeros(1))
    torch.testing.assert_close(slope * m + intercept, function(m), rtol=0, atol=1e-12)
    below, above = function(m - 1e-4), function(m + 1e-4)
    torch.testing.assert_close(slope, (above - below) / 2e-4, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3)]
)
def test_behind_a_norm_its_weight_and_bias_say_what_enters(norm: nn.Module) -> None:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.3, -1.0, 0.7]))
    line = Affine(3)
    line.start_behind(norm, nn.ReLU())
    wanted = best_line(nn.ReLU(), torch.tensor([0.3, -1.0, 0.7]), torch.tensor([0.5, 2.0, 0.0]))
    torch.testing.assert_close(line.weight.detach(), wanted[0].float())
    torch.testing.assert_close(line.bias.detach(), wanted[1].float())
    assert line.weight.requires_grad


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3, affine=False), nn.LayerNorm(3, elementwise_affine=False)])
def test_a_norm_without_numbers_hands_on_a_standard_normal(norm: nn.Module) -> None:
    line = Affine(3)
    line.start_behind(norm, nn.ReLU())
    torch.testing.assert_close(line.weight.detach(), torch.full((3,), 0.5))
    torch.testing.assert_close(line.bias.detach(), torch.full((3,), 0.3989423))


def test_a_line_for_all_channels_takes_their_mixture() -> None:
    norm, line = nn.BatchNorm2d(2), Affine(1)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([-1.0, 1.0]))
        norm.weight.fill_(0.0)
    line.start_behind(norm, nn.ReLU())  # half of all is -1, half is 1: mean 0, deviation 1
    torch.testing.assert_close(line.weight.detach(), torch.tensor([0.5]))


def test_per_channel_functions_are_integrated_per_channel() -> None:
    function = nn.PReLU(2)
    with torch.no_grad():
        function.weight.copy_(torch.tensor([0.0, 1.0]))
    slope, intercept = best_line(function, torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(slope, torch.tensor([0.5, 1.0], dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(intercept, torch.tensor([0.3989423, 0.0], dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_function_for_other_channels_is_refused() -> None:
    with pytest.raises(BadValue, match="PReLU fails on the inputs of this call"):
        best_line(nn.PReLU(3), torch.zeros(2), torch.ones(2))


def test_what_is_replaced_is_remembered_but_no_part_of_the_module() -> None:
    line, function = Affine(2), nn.PReLU()
    assert line.replaced is None
    line.stand_for(function)
    assert isinstance(line.replaced, nn.PReLU) and line.replaced is not function
    assert list(line.state_dict()) == ["weight", "bias"] and list(line.children()) == []
    assert len(list(line.parameters())) == 2
    copied = copy.deepcopy(line)
    assert isinstance(copied.replaced, nn.PReLU) and copied.replaced is not line.replaced
    file = io.BytesIO()
    torch.save(line, file)
    file.seek(0)
    assert isinstance(torch.load(file, weights_only=False).replaced, nn.PReLU)
    assert str(line) == "Affine(2, for PReLU)"
