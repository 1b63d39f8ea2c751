"""Candidates: every one is cheaper than what it could replace, they come in order, and each is fitted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from surgery.activations import build
from surgery.simplification.candidates import Candidate, candidates
from surgery.simplification.operators import operators_of
from surgery.simplification.points import Points


def found(name: str, function: nn.Module, shared: bool = False, dtype: torch.dtype = torch.float32) -> list[Candidate]:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = Points(x, function.double().requires_grad_(False), shared)
    return list(candidates(points, name, function, 1e-2, dtype))


@pytest.mark.parametrize("name", ["pwlu", "npwlu", "frelu", "prelu", "swish", "smelu", "gsmelu"])
def test_candidates_are_cheaper_and_in_order(name: str) -> None:
    function = build(name, 3, axis=-1, **({"intervals": 5} if name == "pwlu" else {}))
    each_of_them = found(name, function)
    operators = [candidate.operators for candidate in each_of_them]
    assert operators == sorted(operators) and operators[0] == 0
    assert operators[-1] <= operators_of(name, function)
    assert all(operators_of(each.make, each.module) == each.operators for each in each_of_them)


def test_of_the_same_number_of_operators_only_those_before_it_are_tried() -> None:
    assert "prelu" in [each.make for each in found("frelu", build("frelu", 3, axis=-1))]
    assert "frelu" not in [each.make for each in found("prelu", build("prelu", 3, axis=-1))]


def test_a_pwlu_may_become_one_with_fewer_intervals() -> None:
    function = build("pwlu", 3, axis=-1, intervals=4)
    pieces = [dict(each.params) for each in found("pwlu", function) if each.make == "pwlu"]
    assert pieces == [{"intervals": 1}, {"intervals": 2}, {"intervals": 3}]


def test_shared_parameters_stay_shared() -> None:
    function = build("pwlu", None, axis=-1, intervals=2)
    for each in found("pwlu", function, shared=True):
        assert all(param.shape[-1] == 1 for param in each.module.parameters())
        assert each.params.get("per") == ("layer" if list(each.module.parameters()) else None)


def test_parameters_are_rounded_to_the_precision_of_the_model() -> None:
    function = build("frelu", 3, axis=-1, positive=0.7)
    fitted = next(each for each in found("frelu", function, dtype=torch.bfloat16) if each.make == "affine")
    for param in fitted.module.parameters():
        assert param.dtype == torch.float32 and torch.equal(param, param.bfloat16().float())


def test_cheaper_candidates_come_first_and_are_named_with_their_intervals() -> None:
    names = [str(each) for each in found("npwlu", build("npwlu", 3, axis=-1))]
    assert names[:3] == ["identity", "relu", "leaky_relu"] and names[-1] == "pwlu, 4 intervals"
    assert all(first != second for first, second in pairwise(names))
