"""A function that changes a model and fails changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgery.edit.rollback import all_or_nothing


@all_or_nothing(lambda model, value: model.parameters())
def filled(model: nn.Sequential, value: float) -> int:
    """Replace a layer and overwrite the weights of another."""
    model[1] = nn.GELU()
    with torch.no_grad():
        model[0].weight.fill_(value)
    if value < 0:
        raise ValueError("below zero")
    return len(model)


def test_all_is_changed_or_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    layers, weight = list(model), model[0].weight.clone()
    with pytest.raises(ValueError, match="below zero"):
        filled(model, -1.0)
    assert list(model) == layers and torch.equal(model[0].weight, weight)
    assert filled(model=model, value=0.5) == 2
    assert isinstance(model[1], nn.GELU) and bool((model[0].weight == 0.5).all())
    assert filled.__doc__ == "Replace a layer and overwrite the weights of another."
