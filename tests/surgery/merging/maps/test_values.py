"""Values: in float64 by name, or as shapes alone."""

from __future__ import annotations

import torch
from torch import nn

from surgery.merging.maps.linear_map import LinearMap
from surgery.merging.maps.values import Values


def test_values_are_float64_and_shapes_have_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)).bfloat16()
    exact, shapes = Values(model), Values(model, shapes_only=True)
    assert torch.equal(exact("0.weight"), model[0].weight.double()) and exact("1.running_var").dtype == torch.float64
    assert shapes("0.weight").is_meta and not shapes("0.bias").is_meta
    assert exact.vector("0.bias", 4, 0.0).shape == (4,) and exact.vector(None, 3, 2.0).tolist() == [2, 2, 2]
    assert Values(model.to("meta"))("1.weight").is_meta


def test_a_bias_of_zeros_is_none() -> None:
    made = LinearMap.diagonal(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert Values(nn.Identity()).finished(made).bias is None
    shifted = LinearMap.diagonal(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    finished = Values(nn.Identity(), shapes_only=True).finished(shifted)
    assert finished.weight.is_meta and finished.bias is not None and finished.bias.is_meta
