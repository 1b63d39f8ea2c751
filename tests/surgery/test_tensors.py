"""Tensors: bitwise comparison, and overwriting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.tensors import identical, overwrite

NAN = float("nan")


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), True),
        (torch.tensor([1.0, NAN]), torch.tensor([NAN, 1.0]), False),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), False),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), True),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), False),
        (torch.zeros(2, 1), torch.zeros(2), False),
        (torch.zeros(0), torch.zeros(0), True),
    ],
)
def test_the_same_shape_type_and_numbers(first: Tensor, second: Tensor, equal: bool) -> None:
    assert identical(first, second) is equal


@pytest.mark.parametrize("inference", [True, False])
def test_values_are_written_wherever_a_tensor_was_made(inference: bool) -> None:
    with torch.inference_mode(inference):
        tensor = torch.zeros(3)
    overwrite(tensor, torch.ones(3))
    assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_a_weight_that_learns_is_written_without_a_graph() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    overwrite(weight, torch.ones(2))
    assert weight.tolist() == [1.0, 1.0] and weight.grad_fn is None
