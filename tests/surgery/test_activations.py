"""The catalogue of activations: names, builders, parameters, and what each function computes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery import activations
from surgery.dataflow.operations import ACTIVATIONS, activation_of_module
from tests.asserts import assert_raises
from tests.models import picture
from tests.surgery.activations.every import PLAIN

X = torch.linspace(-4, 4, 41)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: function for name, function in PLAIN.items() if name not in ("helu", "rectified_scores")},
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_computes_what_its_name_says(name: str) -> None:
    module = activations.build(name, 41)
    assert torch.allclose(module(X.clone()), FUNCTIONS[name](X), atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_out_of_place_copies_and_is_found_again(name: str) -> None:
    module, x = activations.build(name, 41), X.clone()
    module(x)
    assert torch.equal(x, X)
    for network in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert activation_of_module(network) == (name if name != "identity" else None)
        assert torch.equal(network(X), module(X))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_function_keeps_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4).to(dtype)
    y = activations.build(name, 3).to(dtype)(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)


def test_the_closed_list_can_be_built() -> None:
    assert set(ACTIVATIONS) <= set(activations.names())
    assert set(FUNCTIONS) <= set(activations.names())


def test_names_are_sorted_and_filtered() -> None:
    assert activations.names() == sorted(activations.names())
    assert activations.names("*gelu*") == ["gelu", "gelu_tanh", "quick_gelu"]
    assert activations.names("nothing") == []


def test_other_names_people_use() -> None:
    assert type(activations.build("swish1")) is nn.SiLU
    assert type(activations.build("linear")) is nn.Identity
    assert "swish1" not in activations.names()


def test_parameters_reach_the_module() -> None:
    assert activations.parameters("leaky_relu") == ("negative_slope",)
    assert activations.parameters("relu") == ()
    assert "channels" not in activations.parameters("prelu")
    assert activations.build("leaky_relu", negative_slope=0.3).negative_slope == 0.3
    assert activations.build("prelu", 8, init=0.5).weight.tolist() == [0.5] * 8
    assert activations.build("prelu", 8, init=0.5, per="layer").weight.tolist() == [0.5]
    assert activations.build("hardtanh", min_val=-2.0, max_val=3.0).max_val == 3.0


def test_an_unknown_name_shows_the_nearest() -> None:
    assert_raises(surgery.UnknownName, lambda: activations.build("leaky_rlu"), "'leaky_rlu'", "leaky_relu")
    assert_raises(surgery.UnknownName, lambda: activations.parameters("swosh"), "'swosh'", "swish")
    assert_raises(surgery.UnknownName, lambda: activations.build("zzz"), "register")
    with pytest.raises(LookupError):
        activations.build("zzz")


def test_an_unknown_parameter_shows_those_there_are() -> None:
    assert_raises(surgery.UnknownName, lambda: activations.build("elu", alhpa=1), "'alhpa'", "alpha")
    assert_raises(surgery.UnknownName, lambda: activations.build("relu", slope=1), "no parameters")


class Mine(nn.Module):
    """A function of one's own, with a weight per channel."""

    def __init__(self, channels: int, power: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), power))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight.view(-1, 1, 1)


def test_functions_of_ones_own() -> None:
    activations.register("mine", lambda channels, power=2.0: Mine(channels, power), source="nobody")
    assert "mine" in activations.names()
    assert activations.parameters("mine") == ("power",)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU())
    edited, report = surgery.transform(model, surgery.swap("mine", power=3.0), picture())
    assert report.added == ("1.weight", "3.weight")
    assert edited.get_parameter("1.weight").tolist() == [3.0] * 5
    assert edited.get_parameter("3.weight").shape == (4,)
    assert [site.activation for site in report.after] == ["mine", "mine"]
    again, _ = surgery.transform(edited, surgery.swap("gelu", activation="mine"), picture())
    assert [type(act) for act in again][1::2] == [nn.GELU, nn.GELU]


def test_a_taken_name_is_refused() -> None:
    assert_raises(surgery.BadValue, lambda: activations.register("relu", nn.ReLU), "'relu'", "another name")
    assert_raises(surgery.BadValue, lambda: activations.register("swish", nn.ReLU), "'swish'")


def test_the_identity_out_of_place_is_a_copy() -> None:
    copied = activations.Copy()(X)
    assert torch.equal(copied, X)
    assert copied.data_ptr() != X.data_ptr()


def test_any_function_can_overwrite_its_input() -> None:
    x = X.clone()
    y = activations.InPlace(nn.GELU())(x)
    assert y is x
    assert torch.equal(x, F.gelu(X))


def test_a_parameter_the_builder_cannot_use_is_a_bad_value() -> None:
    error = assert_raises(surgery.BadValue, lambda: activations.build("prelu", init="abc"), "'prelu'", "init='abc'")
    assert error.__cause__ is not None
    assert_raises(surgery.BadValue, lambda: activations.build(5), "5")  # type: ignore[arg-type]
