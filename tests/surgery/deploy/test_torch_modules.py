"""Torch modules: a copy with torch's own modules computes the same, and tools that go by class know it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import NotEdited
from tests import models
from tests.asserts import assert_bit_equal, assert_raises

KINDS: dict[str, tuple[dict[str, Any], type[nn.Module]]] = {
    "prelu": ({}, nn.PReLU), "frelu": ({}, nn.ReLU), "swish": ({"beta": 1.0}, nn.SiLU), "helu": ({}, nn.ReLU),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_torch_has_a_module_for_it(name: str) -> None:
    params, kind = KINDS[name]
    edited, _ = surgery.transform(models.ResidualNet().eval(), surgery.swap(name, **params), models.ResidualNet.example)
    made = surgery.plain(edited)
    assert {type(module) for module in made.modules()} & {kind}
    assert not any(type(module).__module__.startswith("surgery.activations") for module in made.modules())
    x = models.ResidualNet.example
    torch.testing.assert_close(made(x), edited(x), rtol=1e-6, atol=1e-7)


def test_slopes_stay_parameters_of_their_names() -> None:
    edited, _ = surgery.transform(models.ResidualNet(), surgery.swap("prelu"), models.ResidualNet.example)
    made = surgery.plain(edited)
    assert made.state_dict().keys() == edited.state_dict().keys()
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in edited.named_parameters()]
    shared = {id(param) for param in made.parameters()} & {id(param) for param in edited.parameters()}
    assert not shared, "a copy has weights of its own"


def test_frelu_with_positive_slopes_of_one_is_a_prelu() -> None:
    model = nn.Sequential(nn.Linear(3, 4), surgery.activations.build("frelu", channels=4))
    with torch.no_grad():
        model[1].negative.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    made, x = surgery.plain(model), torch.randn(5, 3)
    assert type(made[1]) is nn.PReLU
    torch.testing.assert_close(made(x), model(x))


@pytest.mark.parametrize(
    ("name", "params"),
    [("prelu", {"axis": -1}), ("swish", {"beta": 2.0}), ("frelu", {"positive": 0.5}), ("pwlu", {}), ("smelu", {})],
)
def test_what_torch_lacks_stays(name: str, params: dict[str, Any]) -> None:
    model = nn.Sequential(surgery.activations.build(name, channels=4, **params))
    made, x = surgery.plain(model), torch.randn(2, 3, 4) if "axis" in params else torch.randn(2, 4)
    assert type(made[0]) is type(model[0])
    assert_bit_equal(made(x), model(x), name)


def test_the_model_itself_is_left_alone_and_the_copy_has_no_history() -> None:
    edited, _ = surgery.transform(models.ResidualNet(), surgery.swap("prelu"), models.ResidualNet.example)
    kinds = [type(module) for module in edited.modules()]
    made = surgery.plain(edited.train())
    assert [type(module) for module in edited.modules()] == kinds
    assert all(module.training for module in made.modules())
    assert_raises(NotEdited, lambda: surgery.undo(made), "ResidualNet")
    surgery.undo(edited)
