"""The check of a merged layer: it sees any difference that is more than rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from surgery.errors import NotProved
from surgery.look.example import Example
from surgery.merging.check import difference_of, outputs_differ, random_input, relative
from surgery.merging.maps.linear_map import LinearMap


def test_a_layer_with_other_weights_is_refused() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(3, 4, dtype=torch.float64)
    same = difference_of("fc", [layer], [copy.deepcopy(layer).double()], x, torch.float32)
    assert same.exact == 0 and same.cast <= 1e-6
    with pytest.raises(NotProved, match="merged at fc is not what it replaces"):
        difference_of("fc", [layer], [nn.Linear(4, 4)], x, torch.float32)


def test_a_model_with_other_outputs_is_refused() -> None:
    model, sample = nn.Linear(4, 4), Example.of(torch.randn(2, 4), nn.Linear(4, 4))
    assert outputs_differ(model, copy.deepcopy(model), sample) == 0
    with pytest.raises(NotProved, match="does not compute what the unmerged one does"):
        outputs_differ(model, nn.Linear(4, 4), sample)


class Reading(nn.Module):
    """Its code reads an attribute of its layer, which the identity does not have."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype))  # type: ignore[union-attr, arg-type]


def test_a_model_that_no_longer_runs_is_refused() -> None:
    model = Reading(nn.Linear(4, 4))
    with pytest.raises(NotProved, match=r"does not run.\n.*has no attribute 'weight'"):
        outputs_differ(model, Reading(nn.Identity()), Example.of(torch.randn(2, 4), model))


def test_the_input_is_as_small_as_shows_the_kernel() -> None:
    made = LinearMap.average(3, (3, 5), (2, 1), (1, 0), 15)
    assert random_input(made, (8, 3, 224, 9)).shape == (2, 3, 10, 9)
    assert random_input(LinearMap.identity(3), (8, 7, 3)).shape == (2, 7, 3)


def test_errors_are_relative_to_the_largest_value() -> None:
    assert relative(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.0])) == 0.25
    assert relative(torch.tensor([1.0]), torch.tensor([0.0])) == 1
    assert relative(torch.zeros(2), torch.zeros(3)) == float("inf")
