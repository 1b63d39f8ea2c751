"""Layers: the module for a map, as data and back."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from surgery.errors import BadFile
from surgery.merging.layer import Layer, filled
from surgery.merging.maps.linear_map import SIZED, LinearMap, NotMergeable
from tests.surgery.merging.jacobian import apply

FLOAT, HERE = torch.float64, torch.device("cpu")


@pytest.mark.parametrize("axes", (0, 1, 2, 3))
def test_the_module_computes_the_map(axes: int) -> None:
    padding = tuple((number, 1) for number in range(axes))
    ones = (1,) * axes
    made = LinearMap(torch.randn(6, 4, *(2,) * axes, dtype=FLOAT), torch.randn(6, dtype=FLOAT), ones, padding, ones, 1)
    layer, form = Layer.of(made)
    again = Layer.from_data(json.loads(json.dumps(layer.to_data())))
    assert again == layer and layer.shape == tuple(form.weight.shape)
    module = filled(again.build(nn.Identity(), FLOAT, HERE), form.weight, form.bias)
    x = torch.randn(2, 4, *(5,) * axes, dtype=FLOAT)
    torch.testing.assert_close(module(x), apply(made, x))


def test_a_diagonal_map_of_tokens_becomes_a_dense_linear_layer() -> None:
    layer, made = Layer.of(LinearMap.diagonal(torch.arange(3.0)))
    assert layer.shape == (3, 3) and torch.equal(made.weight, torch.diag(torch.arange(3.0)))


def test_what_pads_by_the_size_of_its_input_keeps_its_class() -> None:
    class Conv2dSame(nn.Conv2d):
        pass

    layer = Layer.of(LinearMap(torch.randn(6, 2, 3, 3), torch.randn(6), (2, 2), ((0, 0),) * 2, (1, 1), 2, SIZED))[0]
    made = layer.build(Conv2dSame(4, 4, 3, stride=2, bias=False), torch.float32, HERE)
    assert type(made) is Conv2dSame and (made.out_channels, made.groups) == (6, 2)
    assert made.weight.shape == (6, 2, 3, 3) and made.bias is not None and made.bias.shape == (6,)
    with pytest.raises(BadFile, match="cannot be built"):
        layer.build(nn.Identity(), torch.float32, HERE)


def test_there_are_no_convolutions_over_four_axes() -> None:
    with pytest.raises(NotMergeable, match="no convolutions over 4 axes"):
        Layer.of(LinearMap.identity(3).lifted(4))


@pytest.mark.parametrize("change", [{"kernel": [3]}, {"groups": 0}, {"mode": "same"}, {"inputs": 2.5}, {"more": 1}])
def test_a_file_that_describes_no_layer_is_refused(change: dict[str, object]) -> None:
    data = Layer(4, 4, (3, 3), (1, 1), (1, 1), (1, 1), 2, True, "zeros").to_data()
    with pytest.raises(BadFile, match="a merged layer that cannot be built"):
        Layer.from_data({**data, **change})
