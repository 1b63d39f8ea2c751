"""How strongly weights suppress dead units: the output of a unit without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.dead.measure import measure
from pruning.dead.suppression import contributions, suppression
from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from tests.asserts import assert_untouched
from tests.pruning.dead.two_layers import ONES, Two


def test_suppression_worked_by_hand() -> None:
    model = Two()
    masks = Masks.of(model)
    weights = {name: tensor.detach() for name, tensor in prunable(model).items()}
    with assert_untouched(model):
        measured = measure(model, ONES, 0.0, "nonlinearity", inputs_of=weights)
        found = suppression(model, weights, masks, measured)
    # Mean inputs: 3 / 4 of the images, and 3 / 4, 0, 1, 0 of what the convolution outputs.
    assert found["conv.weight"].flatten().tolist() == [0, -0.75, 0, 0]  # the last unit has no unpruned weight
    assert found["fc.weight"].tolist() == [[0, 0, 0, 0], [-0.75, 0, 0, 0]]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4, bias=False),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.Conv1d(6, 4, 2, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2, bias=False),
    ],
    ids=["linear", "conv", "grouped", "depthwise", "transposed", "transposed-grouped"],
)
def test_a_weight_is_weighed_with_its_own_input(layer) -> None:
    """Cut all weights that suppress one unit: on inputs equal to their means, only its output is not negative."""
    means = torch.tensor([0.5, -1.0, 2.0, -0.25, 1.5, -3.0])
    extent = [4] * (layer.weight.dim() - 2)
    x = means.reshape(1, 6, *[1] * len(extent)).expand(1, 6, *extent)
    units = layer(x).shape[1]
    for unit in range(units):
        dead = torch.arange(units) == unit
        held = contributions(layer, "weight", layer.weight.detach(), dead, means)
        before = layer(x)
        kept, layer.weight.data = layer.weight.data, layer.weight.data.masked_fill(held < 0, 0)
        after = layer(x)
        layer.weight.data = kept
        others = torch.arange(units) != unit
        assert torch.equal(after[:, others], before[:, others])
        assert bool((after[:, unit] >= before[:, unit]).all()) and bool((after[:, unit] >= 0).all())
        # and nothing above zero was cut: what is left is the sum of the contributions above zero
        assert torch.allclose(after[:, unit], _positive_part(layer, x)[:, unit])


def _positive_part(layer: nn.Module, x: Tensor) -> Tensor:
    """The output of a linear layer from contributions above zero only."""
    weight = layer.weight.data
    parts = []
    for sign in (1, -1):
        layer.weight.data = (weight * sign).clamp(min=0)
        parts.append(layer((x * sign).clamp(min=0)))
    layer.weight.data = weight
    return parts[0] + parts[1]
