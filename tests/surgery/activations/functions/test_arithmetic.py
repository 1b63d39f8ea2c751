"""Arithmetic: quantisable networks with another activation behind their sums, in float and converted."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional, QFunctional
from torch.testing import assert_close

import surgery
from surgery.activations import Arithmetic
from tests.models.blocks import AddReluNet

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(net: AddReluNet, x: Tensor, activation: nn.Module) -> Tensor:
    stem, block = net.stem(x), net.block
    return net.last(activation(block.conv2(block.relu(block.conv1(stem))) + stem))


@pytest.mark.parametrize(
    ("rule", "activation"),
    [(surgery.erase(owner="block.join"), nn.Identity()), (surgery.swap("silu", owner="block.join"), nn.SiLU())],
)
def test_the_sum_has_the_new_activation_and_nothing_else_changes(
    rule: surgery.Rule, activation: nn.Module, tmp_path: Path
) -> None:
    net = AddReluNet().eval()
    edited, _ = surgery.transform(net, rule, X)
    assert_close(edited(X), by_hand(net, X, activation))
    assert type(edited.block) is type(net.block) and type(edited.block.join) is Arithmetic
    assert list(edited.state_dict()) == list(net.state_dict())
    surgery.save(edited, tmp_path)
    assert torch.equal(surgery.load(tmp_path, AddReluNet()).eval()(X), edited(X))
    assert torch.equal(copy.deepcopy(edited)(X), edited(X))
    surgery.undo(edited)
    assert type(edited.block.join) is FloatFunctional and torch.equal(edited(X), net(X))


def test_sites_stay_where_they_were() -> None:
    net = AddReluNet()
    before = surgery.find_sites(net, X)
    edited, report = surgery.transform(net, surgery.swap("prelu", owner="block.join"), X)
    assert [(site.owner, site.block, site.position, site.joins_by) for site in report.after] == [
        (site.owner, site.block, site.position, site.joins_by) for site in before
    ]
    assert report.added == ("block.join.activation.weight",)
    assert torch.equal(edited(X), net(X))


@pytest.mark.filterwarnings("ignore")  # torch.ao's quantisation is deprecated, and says so in several words
def test_converters_find_the_sum() -> None:
    edited, _ = surgery.transform(AddReluNet().eval(), surgery.erase(owner="block.join"), X)
    whole = nn.Sequential(quantization.QuantStub(), edited, quantization.DeQuantStub()).eval()
    whole.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(whole)
    wanted = prepared(X)
    found = quantization.convert(prepared)
    assert type(found[1].block.join.functional) is QFunctional
    assert (found(X) - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_the_other_operations_are_those_of_the_functional() -> None:
    plain, made = FloatFunctional(), Arithmetic(FloatFunctional(), nn.ReLU())
    x, y = torch.randn(2, 3, 3), torch.randn(2, 3, 3)
    for name, args in (
        ("add", (x, y)), ("mul", (x, y)), ("matmul", (x, y)), ("add_scalar", (x, 2.0)), ("mul_scalar", (x, 2.0)),
        ("cat", ([x, y], 1)), ("add_relu", (x, y)),
    ):  # fmt: skip
        assert torch.equal(getattr(made, name)(*args), getattr(plain, name)(*args)), name
