"""Gradients of every function: finite differences, kinks, per-sample and forward mode, and saved tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacrev, jvp, vmap

from surgery import activations
from surgery.activations import only
from tests.surgery.activations.every import (
    CASES,
    FUSED,
    LEARNED,
    PLAIN,
    SWEPT,
    away_from_joints,
    joints,
    knots_of,
    made,
    numbers,
)  # fmt: skip

# Kinks of torch's own, for differences to keep away from.
KINKS = (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0)
ONCE = ("hardsigmoid",)  # torch's own has no second derivative
# HeLU's gradient is not that of its values: its mask is tested instead.
SMOOTHED = [name for name in PLAIN if name != "helu"]


def of(module: nn.Module) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The module as a function of x and its parameters, and these."""
    names = [name for name, _ in module.named_parameters()]

    def function(x: Tensor, *params: Tensor) -> Tensor:
        y: Tensor = functional_call(module, dict(zip(names, params, strict=True)), (x,))
        return y

    return function, tuple(param.detach().requires_grad_() for param in module.parameters())


# -- by differences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, None])
@pytest.mark.parametrize("form", ["formula", "closed"])
@pytest.mark.parametrize("name", LEARNED)
def test_first_and_second_derivatives(name: str, form: str, channels: int | None) -> None:
    module = made(name, channels, dtype=torch.float64)
    function, params = of(module)
    x = away_from_joints(name, module, numbers(5, 2)).T.reshape(1, 2, 5).requires_grad_()
    with only(form):
        assert gradcheck(function, (x, *params))
        assert gradgradcheck(function, (x, *params))


@pytest.mark.parametrize("name", SMOOTHED)
def test_first_and_second_derivatives_without_parameters(name: str) -> None:
    x = numbers(6)
    assert (x[:, None] - torch.tensor(KINKS)).abs().min() > 0.01
    x.requires_grad_()
    module = activations.build(name, 6).double()
    assert gradcheck(module, x)
    assert name in ONCE or gradgradcheck(module, x)


# -- where there are kinks --------------------------------------------------------------------------------------------


def derivative(module: nn.Module, at: list[float], dtype: torch.dtype = torch.float32) -> list[float]:
    x = torch.tensor(at, dtype=dtype).requires_grad_()
    y = module(x)
    y.backward(torch.ones_like(y))
    return [round(number, 6) for number in x.grad.tolist()]


def forms_of(name: str) -> tuple[str, ...]:
    return ("formula", "closed", "fused") if name in FUSED else ("formula", "closed")


AT_JOINTS = [
    # Zero belongs to the left slope, as in torch's PReLU.
    ("prelu", {"init": 0.25}, [0.0], [0.25]),
    ("frelu", {"positive": 2.0, "negative": 0.5}, [0.0], [0.5]),
    # The derivative is continuous where lines meet the parabola.
    ("smelu", {"beta": 0.5}, [-0.5, 0.5, 0.0], [0.0, 1.0, 0.5]),
    ("gsmelu", {"left": 0.5, "right": 1.5, "low_slope": -0.5, "high_slope": 2.0}, [-0.5, 1.5, 0.5], [-0.5, 2.0, 0.75]),
    ("rescu", {"low_slope": 0.5, "high_slope": 1.0, "joint": 1.0}, [-0.5, 0.5, 0.0], [0.5, 1.0, 0.75]),
    # A knot belongs to the interval right of it: slopes are 0.5, 0, 1, 3 here.
    ("pwlu", {"intervals": 2, "bound": 2.0}, [-2.5, -2.0, 0.0, 2.0], [0.5, 0.0, 1.0, 3.0]),
    ("npwlu", {"intervals": 2, "bound": 2.0}, [-2.5, -2.0, 0.0, 2.0], [0.5, 0.0, 1.0, 3.0]),
]


@pytest.mark.parametrize(("name", "options", "at", "wanted"), AT_JOINTS, ids=[row[0] for row in AT_JOINTS])
def test_derivatives_at_the_joints(name: str, options: dict[str, float], at: list[float], wanted: list[float]) -> None:
    module = activations.build(name, **options)
    with torch.no_grad():
        if name == "pwlu":
            module.low_slope.fill_(0.5)
            module.high_slope.fill_(3.0)
        if name == "npwlu":
            module.slopes.copy_(torch.tensor([[0.5], [0.0], [1.0], [3.0]]))
    for form in forms_of(name):
        with only(form):
            assert derivative(module, at) == wanted, form
    assert {name for name in LEARNED if name not in ("affine", "swish")} == {row[0] for row in AT_JOINTS}


@pytest.mark.parametrize("name", [name for name in LEARNED if name not in ("affine", "swish")])
def test_gradients_at_the_joints_are_the_same_in_every_form(name: str) -> None:
    module = made(name, 1)
    with torch.no_grad():
        for param in module.parameters():  # all sums of joints are exact in single precision
            param.copy_((param * 8).round() / 8)
            if name in ("pwlu", "npwlu") and param.shape[0] == 1:
                param.copy_(param.round())
    at = joints(name, module).float()
    found = []
    for form in forms_of(name):
        x = at.clone().requires_grad_()
        with only(form):
            y = module(x)
            found.append([y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))])
    for other in found[1:]:
        for got, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(got, same, atol=1e-5, rtol=1e-5)


# torch compiles what forward derivatives need with its own old compiler, the first time.
FORWARD = pytest.mark.filterwarnings(r"ignore:.*torch\.jit\..* is deprecated")


@FORWARD
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_helu_lets_the_gradient_pass_above_minus_alpha(alpha: float) -> None:
    helu = activations.build("helu", alpha=alpha)
    at = [-9.0, -0.75, -0.5, -0.25, -0.0, 0.25, 9.0]
    wanted = [float(number > -alpha) for number in at]
    assert derivative(helu, at) == wanted
    assert derivative(helu.eval(), at) == [float(number > 0) for number in at]
    x = torch.tensor(at)
    assert torch.equal(helu.train()(x), x.relu()) and torch.equal(helu.eval()(x), x.relu())
    assert vmap(grad(helu.train()))(x).tolist() == wanted
    assert jvp(helu, (x,), (torch.ones_like(x),))[1].tolist() == wanted


# -- torch.func -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEPT)
def test_gradients_per_sample(name: str) -> None:
    module, x = made(name), numbers(4, 3, 5, dtype=torch.float32)
    weights = numbers(3, 5, dtype=torch.float32, seed=2)
    params = {key: param.detach() for key, param in module.named_parameters()}

    def loss(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        return (functional_call(module, params, (sample[None],))[0] * weights).sum()

    found = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(params, x)
    for at, sample in enumerate(x):
        alone = sample.clone().requires_grad_()
        wanted = torch.autograd.grad((module(alone[None])[0] * weights).sum(), [*module.parameters(), alone])
        for value, other in zip((*found[0].values(), found[1]), wanted, strict=True):
            torch.testing.assert_close(value[at], other, atol=1e-5, rtol=1e-5)


@FORWARD
@pytest.mark.parametrize("name", SWEPT)
def test_forward_derivatives_and_jacobians(name: str) -> None:
    module, x, way = made(name).double(), numbers(2, 3), numbers(2, 3, seed=3)
    leaf = x.clone().requires_grad_()
    (along,) = torch.autograd.grad(module(leaf).sum(), leaf)
    torch.testing.assert_close(jvp(module, (x,), (way,))[1], along * way)
    torch.testing.assert_close(jacrev(module)(x).reshape(6, 6), along.flatten().diag())


# -- what is kept for the backward pass -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"), [("helu", "closed"), *(case for case in CASES if case[0] in LEARNED and case[1] != "formula")]
)
def test_only_x_is_kept(name: str, form: str) -> None:
    module, x = made(name), numbers(2, 3, 16, 16, dtype=torch.float32).requires_grad_()
    kept: list[Tensor] = []
    with (
        only(form),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor),
    ):
        module(x).sum()
    assert [tensor.data_ptr() for tensor in kept].count(x.data_ptr()) == 1, "x is kept once"
    others = [tensor.untyped_storage().nbytes() for tensor in kept if tensor.data_ptr() != x.data_ptr()]
    own = sum(param.nbytes for param in module.parameters())
    assert sum(others) <= 3 * own, "beside x, no more than parameters, and widths made of them"


def test_a_formula_keeps_more_than_x() -> None:
    """What the last test would find."""
    module, x = made("smelu"), numbers(2, 3, 16, 16, dtype=torch.float32).requires_grad_()
    kept: list[int] = []
    counting = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor
    )
    with only("formula"), counting:
        module(x).sum()
    assert sum(kept) > 2 * x.nbytes


# -- a law ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_the_closed_form_is_the_formula(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(LEARNED)))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    shared, dtype = data.draw(st.booleans()), data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    seed = data.draw(st.integers(0, 99))
    x = numbers(*shape, dtype=dtype, seed=seed).permute(order)
    module = made(name, None if shared else x.shape[axis], axis=axis)
    module = module.double() if dtype == torch.float64 else module
    weights, found = numbers(*x.shape, dtype=dtype, seed=seed + 100), []
    for form in ("formula", "closed"):
        leaf = x.clone().requires_grad_()
        with only(form):
            y = module(leaf)
            found.append([y.detach(), *torch.autograd.grad(y, [leaf, *module.parameters()], weights)])
    within = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]
    for tensor, other in zip(*found, strict=True):
        assert tensor.shape == other.shape and tensor.dtype == other.dtype
        torch.testing.assert_close(tensor, other, rtol=within, atol=within)


def test_knots_are_where_the_helper_says() -> None:
    module = activations.build("pwlu", 2, intervals=4, bound=2.0)
    params = {key: param.detach().double() for key, param in module.named_parameters()}
    assert knots_of(**params)[:, 0].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
