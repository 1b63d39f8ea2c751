"""How far functions are from the one that is there, on what it receives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgery.deploy.distances import Distances, nearest_of


def test_distances_are_mean_squares_over_that_of_the_output() -> None:
    distances = Distances(nn.Identity(), ["relu", "identity"])
    distances.add(torch.tensor([-2.0, 2.0]))
    distances.add(torch.tensor([[1.0, -4.0]]))  # in all 25, of which those below zero are 20
    assert distances.relative == {"relu": pytest.approx(20 / 25), "identity": 0.0}
    assert nearest_of(distances.relative) == "identity"


def test_a_function_that_is_zero_has_distances_too() -> None:
    distances = Distances(nn.ReLU(), ["leaky_relu"])
    distances.add(torch.tensor([-100.0]))
    assert distances.relative == {"leaky_relu": pytest.approx(1.0)}


def test_without_others_none_is_nearest() -> None:
    assert nearest_of(Distances(nn.ReLU(), []).relative) == ""


def test_functions_that_work_in_place_leave_the_input_alone() -> None:
    entered = torch.tensor([-1.0, 1.0])
    distances = Distances(nn.ReLU(inplace=True), ["relu"])
    distances.add(entered)
    assert distances.relative == {"relu": 0.0} and entered.tolist() == [-1.0, 1.0]
