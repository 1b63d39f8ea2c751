"""Forward: the graph of one forward, which tensors are read where, and by which module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from surgery.errors import CannotLook
from surgery.look.example import Example
from surgery.merging.forward import forward_of
from tests.surgery.merging.networks import IMAGES, Plain, seen


def test_modules_take_and_return_nodes() -> None:
    forward, _ = seen(Plain())
    calls = {call.path: call for call in forward.calls}
    assert calls["bn1"].taken == calls["conv1"].returned and calls["act1"].taken == calls["bn1"].returned
    assert forward.readers[calls["bn1"].returned or 0] == [calls["act1"].returned]
    assert forward.outputs == {calls["fc"].returned}
    assert forward.weights["conv1.weight"] == forward.weights["bn1.running_mean"] == 1
    assert forward.times("conv1") == 1 and forward.times("other") == 0


class Overwriting(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        view = y[:, :1]
        y.relu_()
        return y, view


def test_a_view_of_what_is_overwritten_has_other_values() -> None:
    forward, _ = seen(Overwriting())
    names = {forward.nodes[output].name for output in forward.outputs}
    assert names == {"relu_", "write"}


class Steered(nn.Module):
    """Its control flow depends on values, so that it does not run without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if bool(x.sum() < 1e9) else x


def test_a_model_that_needs_values_is_run_on_some() -> None:
    model = Steered()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    _, units = seen(model)
    assert [unit.path for unit in units] == ["conv"]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_that_does_not_run_is_an_error() -> None:
    with pytest.raises(CannotLook, match="does not run on this example in eval mode"):
        forward_of(Plain(), Example.of(IMAGES[:, :2], Plain()))
