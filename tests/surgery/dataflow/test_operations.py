"""Activations are recognised by what they compute, not by their name or base class."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from timm.layers import activations as timm_activations
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.dataflow.operations import activation_of_module
from surgery.errors import CannotEdit, NothingPicked
from surgery.schedule.param_groups import is_activation
from tests.asserts import assert_raises, assert_untouched

GAIN = 1.75

KINDS: dict[type[nn.Module], tuple[object, ...]] = {
    nn.ReLU: (), nn.ReLU6: (), nn.LeakyReLU: (), nn.PReLU: (), nn.ELU: (), nn.SELU: (), nn.CELU: (), nn.GELU: (),
    nn.SiLU: (), nn.Mish: (), nn.Hardswish: (), nn.Hardtanh: (), nn.Softplus: (), nn.Sigmoid: (), nn.Hardsigmoid: (),
    nn.Tanh: (), timm_activations.Swish: (), timm_activations.PReLU: (), timm_activations.QuickGELU: (),
    type(surgery.activations.build("smelu")): (), type(surgery.activations.build("prelu", 4)): (4,),
}  # fmt: skip


def heir(kind: type[nn.Module], **methods: Callable[..., object]) -> type[nn.Module]:
    return type(f"Own{kind.__name__}", (kind,), methods)


def gained(self: nn.Module, x: Tensor) -> Tensor:
    parent = type(self).__mro__[1]
    return parent.forward(self, x) * GAIN  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_heir_with_a_forward_of_its_own_is_not_its_parent(kind: type[nn.Module]) -> None:
    plain, own, called = heir(kind), heir(kind, forward=gained), heir(kind, __call__=gained)
    given = KINDS[kind]
    assert activation_of_module(plain(*given)) == activation_of_module(kind(*given))
    assert activation_of_module(own(*given)) is None
    assert activation_of_module(called(*given)) is None
    assert is_activation(own(*given))  # its slopes go without weight decay


def test_an_object_with_a_forward_of_its_own_is_not_its_class() -> None:
    act, tagged = nn.ReLU(), surgery.activations.build("pwlu", channels=4)
    for module in (act, tagged):
        assert activation_of_module(module) is not None
        module.forward = types.MethodType(lambda self, x: x * GAIN, module)  # type: ignore[method-assign]
        assert activation_of_module(module) is None


class Gained(nn.ReLU):
    """A ReLU with a gain, through its parent."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * GAIN


class Written(nn.ReLU):
    """A ReLU with a gain, written out."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input) * GAIN


class Clamped(nn.ReLU):
    """Without a call of the closed list."""

    def forward(self, input: Tensor) -> Tensor:
        return input.clamp(0, 1)


class GELU(nn.Module):
    """Named after GELU, and twice as large."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) * 2


def net_with(act: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), act, nn.Linear(8, 4))


ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_a_gain_behind_an_activation_stays_when_that_is_swapped() -> None:
    for act, name, gain in ((Written(), "relu", GAIN), (GELU(), "gelu", 2.0)):
        net = net_with(act)
        (site,) = surgery.find_sites(net, ROWS)
        assert (site.path, site.activation, site.module) == (f"1.{name}", name, None)
        edited, _ = surgery.transform(net, surgery.swap("elu"), ROWS)
        assert torch.equal(edited(ROWS), net[2](F.elu(net[0](ROWS)) * gain))
        erased, _ = surgery.transform(net, surgery.erase(), ROWS)
        assert torch.equal(erased(ROWS), net[2](net[0](ROWS) * gain))
        assert torch.equal(surgery.undo(erased)(ROWS), net(ROWS))


def test_what_only_the_parent_computes_is_refused_by_name() -> None:
    net = net_with(Gained())
    with assert_untouched(net):
        assert_raises(CannotEdit, lambda: surgery.transform_(net, surgery.swap("relu"), ROWS), "1.relu", "super()")


def test_a_forward_put_on_an_object_is_refused_by_name() -> None:
    act = nn.ReLU()
    act.forward = lambda input: F.relu(input) * GAIN  # type: ignore[method-assign]
    net = net_with(act)
    assert_raises(CannotEdit, lambda: surgery.transform_(net, surgery.swap("relu"), ROWS), "<lambda>()")


def test_an_unknown_function_is_no_site() -> None:
    net = net_with(Clamped())
    assert len(surgery.find_sites(net, ROWS)) == 0
    assert_raises(NothingPicked, lambda: surgery.transform_(net, surgery.erase(), ROWS))


# What transformers calls its activations, and what they are: its own classes, by the functions they compute.
OF_TRANSFORMERS = {
    "gelu": "gelu", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "hardswish": "hardswish", "leaky_relu": "leaky_relu", "mish": "mish", "quick_gelu": "quick_gelu", "relu": "relu",
    "relu2": "squared_relu", "relu6": "relu6", "sigmoid": "sigmoid", "silu": "silu", "swish": "silu", "tanh": "tanh",
    "prelu": "prelu", "gelu_10": None, "laplace": None, "linear": None, "sqrtsoftplus": None, "xielu": None,
}  # fmt: skip


def test_the_activations_of_transformers_are_what_they_compute() -> None:
    named = pytest.importorskip("transformers.activations")
    found = {name: activation_of_module(named.ACT2FN[name]) for name in OF_TRANSFORMERS if name in named.ACT2CLS}
    assert found == {name: OF_TRANSFORMERS[name] for name in found}
    assert found.keys() >= {"gelu_pytorch_tanh", "gelu_10", "quick_gelu"}


def test_a_clipped_gelu_keeps_its_clip() -> None:
    named = pytest.importorskip("transformers.activations")
    net = net_with(named.ClippedGELUActivation(-0.125, 0.5))
    (site,) = surgery.find_sites(net, ROWS)
    assert (site.path, site.activation) == ("1.gelu", "gelu")
    edited, _ = surgery.transform(net, surgery.swap("elu"), ROWS)
    assert torch.equal(edited(ROWS), net[2](F.elu(net[0](ROWS)).clip(-0.125, 0.5)))


class QuickGELU(nn.Module):
    """The activation of CLIP, as it is usually written."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def test_what_a_module_computes_is_asked_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    computes = surgery.dataflow.operations.computes

    def counted(module: nn.Module, activation: str) -> bool:
        asked.append(activation)
        return computes(module, activation)

    monkeypatch.setattr(surgery.dataflow.operations, "computes", counted)
    model = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(4, 4), QuickGELU())))
    sites = surgery.find_sites(model, torch.rand(2, 4))
    assert [site.activation for site in sites] == ["quick_gelu"] * 5
    assert asked == ["quick_gelu"] * 10  # a run in eval and one in train mode
