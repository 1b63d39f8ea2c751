"""The layer in front of an activation: its norm or convolution, however the activation is called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery.schedule.layer_in_front import layers_in_front


class Net(nn.Module):
    """A stem with a functional call, a residual block, a concatenation and a head, with the layer in front of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.block = Block()
        self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.after, self.fc, self.out = nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.block(x)
        x = self.after(torch.cat((self.left(x), self.right(x)), 1))
        return self.out(F.relu(self.fc(x.mean((2, 3)))))


class Block(nn.Module):
    """The norm comes before its convolution, and the last activation after the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.conv, self.last = nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.conv(self.first(self.norm(x))))


FRONT = {
    "relu": "norm.weight", "block.first": "block.norm.weight", "block.last": "block.conv.weight",
    "after": "right.weight", "relu_1": "fc.weight",
}  # fmt: skip


@pytest.mark.parametrize("name", ["prelu", "pwlu", "frelu", "smelu", "swish"])
def test_every_parameter_of_an_activation_has_a_layer_in_front(name: str) -> None:
    edited, report = surgery.transform(Net(), surgery.swap(name), torch.randn(2, 3, 6, 6))
    found = layers_in_front(edited)
    assert set(found) == set(report.added) and len(report.plan.edits) == 5
    assert {path: {found[name] for name in found if name.startswith(f"{path}.")} for path in FRONT} == {
        path: {layer} for path, layer in FRONT.items()
    }


@pytest.mark.parametrize("rule", [surgery.erase_relu(stand_in="affine"), surgery.swap("prelu", fade=True)])
def test_lines_and_fades_are_activations_too(rule: surgery.Rule) -> None:
    edited, report = surgery.transform(Net(), rule, torch.randn(2, 3, 6, 6))
    found = layers_in_front(edited)
    assert report.added and set(found) == set(report.added)
    assert found == {name: next(FRONT[path] for path in FRONT if name.startswith(f"{path}.")) for name in found}


def test_a_model_that_does_not_run_goes_by_what_is_registered_before() -> None:
    model = nn.Sequential(nn.PReLU(), nn.Linear(3, 4), nn.PReLU(), nn.Bilinear(2, 2, 2), nn.PReLU())
    assert layers_in_front(model) == {"0.weight": "1.weight", "2.weight": "1.bias", "4.weight": "3.bias"}
    assert layers_in_front(nn.Sequential(nn.Linear(3, 4), nn.ReLU())) == {}


def test_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert layers_in_front(model, torch.randn(2, 3, 6, 6)) == {"2.weight": "1.weight"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
