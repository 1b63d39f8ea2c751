"""Parameter groups: activations without weight decay, every parameter exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from timm.layers.activations import PReLU as TimmPReLU
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from surgery.activations import Fade, build, register
from surgery.activations.functions.affine import Affine
from surgery.activations.functions.prelu import FReLU, PReLU
from surgery.activations.functions.smelu import SmeLU
from surgery.activations.functions.swish import Swish
from surgery.dataflow.operations import TAG
from surgery.errors import BadValue
from surgery.schedule.param_groups import parameter_groups
from tests.asserts import assert_raises
from tests.surgery.small_net import SmallNet


class Table(nn.Module):
    """A user-defined activation with a table of two axes, which no rule about axes would exclude from decay."""

    def __init__(self) -> None:
        super().__init__()
        self.heights = nn.Parameter(torch.zeros(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.heights.mean()


class Net(nn.Module):
    """Every kind of activation that has parameters, between two layers whose parameters decay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.acts = nn.Sequential(
            PReLU(4), nn.PReLU(), TimmPReLU(4), FReLU(4), Swish(), SmeLU(4), Affine(4), Fade(PReLU(), Affine(4)),
            Table(),
        )  # fmt: skip
        self.acts[-1].__dict__[TAG] = "table"  # as `build` does
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.acts(self.norm(self.conv(x))).mean((2, 3)))


# The state of Net, by hand.
OTHERS = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "fc.weight", "fc.bias"]
SLOPES = [
    "acts.0.weight", "acts.1.weight", "acts.2.weight", "acts.3.positive", "acts.3.negative", "acts.4.beta",
    "acts.5.beta", "acts.6.weight", "acts.6.bias", "acts.7.start.weight", "acts.7.end.weight", "acts.7.end.bias",
    "acts.8.heights",
]  # fmt: skip


def names_of(model: nn.Module, group: dict[str, Any]) -> list[str]:
    name_of = {id(param): name for name, param in model.named_parameters()}
    return [name_of[id(param)] for param in group["params"]]


def test_activations_go_without_decay() -> None:
    model = Net()
    others, slopes = parameter_groups(model)
    assert names_of(model, others) == OTHERS
    assert names_of(model, slopes) == SLOPES
    assert "weight_decay" not in others, "the default of the optimiser counts"
    assert slopes["weight_decay"] == 0
    assert [group["weight_decay"] for group in parameter_groups(model, 0.1)] == [0.1, 0]
    assert [group["weight_decay"] for group in parameter_groups(model, weight_decay=0)] == [0, 0]


def test_what_was_registered_counts() -> None:
    register("table", Table)
    model = nn.Sequential(nn.Linear(2, 2), build("table"))
    assert names_of(model, parameter_groups(model)[1]) == ["1.heights"]


def test_frozen_parameters_are_in_no_group() -> None:
    model = Net()
    model.conv.requires_grad_(False)
    model.acts.requires_grad_(False)
    (only,) = parameter_groups(model)
    assert names_of(model, only) == OTHERS[2:]
    assert parameter_groups(nn.ReLU()) == []


def test_a_tied_parameter_is_there_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 3), nn.PReLU(), nn.PReLU())
    model[2].weight = model[0].weight
    model[3].weight = model[1].weight
    model[4] = model[3]
    others, slopes = parameter_groups(model)
    assert names_of(model, others) == ["0.weight", "0.bias", "2.bias"]
    assert names_of(model, slopes) == ["1.weight"]
    # A tensor that is a slope somewhere is spared, whatever else it is.
    model[0].bias = nn.Parameter(torch.zeros(3))
    model[1].weight = model[0].bias
    assert names_of(model, parameter_groups(model)[1]) == ["0.bias", "3.weight"]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam])
def test_an_optimiser_takes_them(kind: type[torch.optim.Optimizer]) -> None:
    model = Net()
    optimizer = kind(parameter_groups(model), lr=0.1, weight_decay=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0]
    # Without a gradient but with decay, weights shrink and slopes stay.
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    same = [name for name, param in model.named_parameters() if torch.equal(param, before[name])]
    assert set(SLOPES) <= set(same)
    assert not {"conv.weight", "fc.weight", "norm.weight"} & set(same)


def test_timm_takes_the_function() -> None:
    model = Net()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=0.5, param_group_fn=parameter_groups)
    others, slopes = optimizer.param_groups
    assert (others["weight_decay"], slopes["weight_decay"]) == (0.5, 0)
    assert (names_of(model, others), names_of(model, slopes)) == (OTHERS, SLOPES)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_biases_and_norms_are_those_of_timm(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **({"act_layer": TimmPReLU} if name == "resnet10t" else {}))
    listed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list=listed)
    ours = parameter_groups(model, 0.05, biases_and_norms=True)
    assert bool(listed) == (name != "resnet10t"), "the model was to have exemptions of its own"
    for decay in (0.0, 0.05):
        (their,) = [group for group in theirs if group["weight_decay"] == decay]
        (our,) = [group for group in ours if group["weight_decay"] == decay]
        assert names_of(model, our) == names_of(model, their)
    # Without the keyword only activations are spared.
    plain = parameter_groups(model, 0.05)
    assert len(plain) == (2 if name == "resnet10t" else 1)
    assert sum(len(group["params"]) for group in plain) == len(list(model.parameters()))


def test_a_models_own_exemptions_are_found_in_a_wrapper() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    wrapped = nn.ModuleDict({"inner": model})
    assert any(name == "inner.pos_embed" for name, _ in wrapped.named_parameters())
    assert "inner.pos_embed" in names_of(wrapped, parameter_groups(wrapped, 0.1, biases_and_norms=True)[1])
    compiled = torch.compile(model)
    spared = parameter_groups(compiled, 0.1, biases_and_norms=True)[1]["params"]
    assert any(param is model.pos_embed for param in spared)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_wrapped_model(alone: None) -> None:
    model = Net()
    plain, wrapped = parameter_groups(model), parameter_groups(DistributedDataParallel(model))
    for got, other in zip(plain, wrapped, strict=True):
        assert [id(p) for p in got["params"]] == [id(p) for p in other["params"]]
        assert got.keys() == other.keys()


@pytest.mark.parametrize("weight_decay", [-0.1, math.nan, math.inf])
def test_decay_is_no_growth(weight_decay: float) -> None:
    assert_raises(BadValue, lambda: parameter_groups(SmallNet(), weight_decay), "weight_decay=")


def test_a_list_is_no_model() -> None:
    assert_raises(BadValue, lambda: parameter_groups([nn.Parameter(torch.zeros(1))]), "list")  # type: ignore[arg-type]
