"""Marks belong to one forward and to exactly the tensor that was marked."""

from __future__ import annotations

import gc

import pytest
import torch

import surgery
from surgery.dataflow.marks import Marks
from tests import models
from tests.models import picture


def test_a_mark_is_of_one_tensor_in_one_forward() -> None:
    marks, other = Marks(), Marks()
    first, equal = torch.zeros(2), torch.zeros(2)
    marks.put(first, 3)
    assert (marks.of(first), marks.of(equal), other.of(first)) == (3, None, None)
    marks.put(first, 5, stale=True)
    marks.put(equal, 6)
    assert (marks.of(first), marks.is_stale(first), marks.is_stale(equal)) == (5, True, False)


def test_a_tensor_in_the_place_of_a_marked_one_has_no_mark() -> None:
    marks, places = Marks(), set[int]()
    for number in range(50):
        value = torch.zeros(2)
        assert marks.of(value) is None
        places.add(id(value))
        marks.put(value, number, stale=True)
        del value
        gc.collect(0)
    assert len(places) < 50, "no place was used twice: nothing was tested"


@pytest.mark.slow
def test_tensors_that_outlive_a_look_carry_nothing_of_it() -> None:
    kept: list[torch.Tensor] = []

    class Keeping(models.TwiceUsed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = super().forward(x)
            if x.sum() > -1e9:  # needs numbers: the look is a real one
                kept.extend((x, result))
            return result

    surgery.find_sites(Keeping(), picture())
    assert kept
    assert not any(vars(tensor) for tensor in kept)
