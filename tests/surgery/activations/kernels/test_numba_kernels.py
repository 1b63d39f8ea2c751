"""The CPU kernels: values and gradients against the plain formula in double precision, for all x."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.activations import dispatch as forms
from surgery.activations.functions.piecewise import PWLU

pytest.importorskip("numba")

from surgery.activations.kernels.numba_kernels import KERNELS
from tests.surgery.activations.kernels.beside_torch import (
    CLOSE,
    FUNCTIONS,
    HALF,
    assert_near,
    in_double,
    outcome,
    params_of,
    random,
)

NAMES = sorted(FUNCTIONS)


WHERE: dict[str, tuple[Callable[[], Tensor], int]] = {
    "NCHW": (lambda: random(3, 5, 7, 9), 1),
    "channels_last": (lambda: random(3, 5, 7, 9).to(memory_format=torch.channels_last), 1),
    "planes of several pieces": (lambda: random(1, 2, 70, 70), 1),
    "rows of several tiles": (lambda: random(2, 600), 1),
    "last axis": (lambda: random(3, 301, 6), -1),
    "first axis": (lambda: random(6, 11), 0),
    "with gaps": (lambda: random(4, 6, 10)[:, :5, ::2], 1),
    "expanded": (lambda: random(1, 5, 1).expand(3, 5, 4), 1),
    "one row": (lambda: random(7), 1),
    "one number": (lambda: random(), 1),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_formula(name: str, where: str) -> None:
    make, axis = WHERE[where]
    x = make()
    grad = random(*x.shape, seed=1) + 2
    channels = x.shape[axis if -x.dim() <= axis < x.dim() else -1] if x.dim() else 1
    for params in (params_of(name, channels), params_of(name, 1)):
        found = outcome("fused", name, x, axis, params, grad)
        assert_near(found, in_double(name, x, axis, params, grad))
        like = torch.empty_like(x)
        assert found[0].stride() == found[1].stride() == like.stride()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_order_of_the_axes_in_memory_is_fine(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    back = [order.index(axis) for axis in range(len(shape))]
    x = random(*(shape[axis] for axis in order)).permute(back)
    grad = random(*shape, seed=1) + 2
    params = params_of("frelu", shape[axis])
    found = outcome("fused", "frelu", x, axis, params, grad)
    assert_near(found, in_double("frelu", x, axis, params, grad))
    assert found[0].stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_may_be_of_another_type(dtype: torch.dtype) -> None:
    x, grad = random(3, 5, 7), random(3, 5, 7, seed=1) + 2
    params = [param.to(dtype) for param in params_of("frelu", 5)]
    found = outcome("fused", "frelu", x, 1, params, grad)
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32, dtype, dtype]
    assert_near(found, in_double("frelu", x, 1, params, grad), HALF.get(dtype, CLOSE))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_device_and_dtype_do_not_matter(name: str) -> None:
    x, grad, params = random(2, 5, 3), random(2, 5, 3, seed=1), params_of(name, 5)
    wanted = outcome("fused", name, x, 1, params, grad)
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            found = outcome("fused", name, x, 1, params, grad)
    finally:
        torch.set_default_dtype(dtype)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_memory_are_an_error(name: str) -> None:
    """Their address is 0."""
    with pytest.raises(NotImplementedError, match="meta"):
        KERNELS[name].forward(random(2, 5, 3), 1, *(param.to("meta") for param in params_of(name, 5)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_some_parameters_may_be_shared(channels_last: bool) -> None:
    x, grad = random(3, 5, 7, 9), random(3, 5, 7, 9, seed=1) + 2
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    for name, shared in (("frelu", [1]), ("pwlu", [1, 2]), ("pwlu", [0, 3])):
        params = [param[..., :1] if at in shared else param for at, param in enumerate(params_of(name, 5))]
        found = outcome("fused", name, x, 1, params, grad)
        assert_near(found, in_double(name, x, 1, params, grad))


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_infinities_and_what_is_no_number_fare_as_in_the_closed_form(name: str, by_rows: bool) -> None:
    # One channel each, so that the gradients of the parameters are distinguishable.
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e38, -1e38, 0.0, -0.0, 1e-40]).repeat(3, 1)
    grad = random(3, 8, seed=1) + 2
    params = params_of(name, 8)
    if not by_rows:
        x, grad = x.T.contiguous(), grad.T.contiguous()
    axis = 1 if by_rows else 0
    found, wanted = (outcome(form, name, x, axis, params, grad) for form in ("fused", "closed"))
    if name == "prelu":  # the slope of what is above zero has no part in the gradient, however large it is
        ones = torch.ones_like(params[0])
        wanted = outcome("closed", "frelu", x, axis, [ones, *params], grad)
        del wanted[2]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found[0][:, 2].isnan().all() if by_rows else found[0][2].isnan().all()
    endless = outcome("fused", name, x.clamp(-3, 3), axis, params, grad * torch.inf)  # without a warning, too
    assert not endless[1].isfinite().any(), "a gradient without end is one"


def test_swish_is_near_over_the_whole_range() -> None:
    x = torch.cat([torch.linspace(-110, 110, 40001), random(9999)])
    y = KERNELS["swish"].forward(x, 0, torch.ones(1))
    wanted = x.double() * torch.sigmoid(x.double())
    assert ((y - wanted).abs() <= 3e-7 * wanted.abs() + 1e-35).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_may_come_expanded_in_another_layout_or_type(name: str) -> None:
    x, params = random(3, 5, 7, 9), params_of(name, 5)
    kernel = KERNELS[name]
    ones = kernel.backward(torch.ones_like(x), x, 1, *params)
    for grad in (torch.ones(()).expand(x.shape), torch.ones(x.shape).bfloat16()):
        assert all(map(torch.equal, ones, kernel.backward(grad, x, 1, *params)))
    grad = random(3, 5, 7, 9, seed=1)
    plain = kernel.backward(grad, x, 1, *params)
    other = kernel.backward(grad.to(memory_format=torch.channels_last), x, 1, *params)
    assert all(map(torch.equal, plain, other)) and other[0].stride() == x.stride()


def test_a_gradient_finer_than_x_is_not_rounded() -> None:
    x, grad, params = random(3, 5, 7).bfloat16(), random(3, 5, 7, seed=1) + 2, params_of("frelu", 5)
    found = KERNELS["frelu"].backward(grad, x, 1, *params)
    wanted = KERNELS["frelu"].backward(grad, x.float(), 1, *params)
    other = KERNELS["frelu"].backward(grad.mT.contiguous().mT, x, 1, *params)
    assert found[0].dtype == torch.bfloat16 and torch.equal(found[0], wanted[0].bfloat16())
    assert all(map(torch.equal, found[1:], wanted[1:])) and all(map(torch.equal, found, other))


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 5, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for form in ("fused", "closed"):
        found = outcome(form, "pwlu", x, 1, params_of("pwlu", 5), torch.zeros(shape))
        assert found[0].shape == found[1].shape == shape
        assert not any(tensor.any() for tensor in found)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_gradient_is_that_of_the_formula(name: str) -> None:
    def second(form: str, dtype: torch.dtype) -> list[Tensor]:
        x = random(3, 5, 4).to(dtype).requires_grad_()
        params = [param.to(dtype).requires_grad_() for param in params_of(name, 5)]
        with forms.only(form):
            y = forms.apply(FUNCTIONS[name], x, 1, *params)
            first = torch.autograd.grad(y, (x, *params), random(3, 5, 4, seed=1).to(dtype), create_graph=True)
            total = sum((tensor.square().sum() for tensor in first), torch.zeros((), dtype=dtype))
        return list(torch.autograd.grad(total, (x, *params), materialize_grads=True))

    torch.testing.assert_close(
        [tensor.double() for tensor in second("fused", torch.float32)],
        second("formula", torch.float64),
        rtol=1e-4,
        atol=1e-3,
    )


def test_only_x_is_kept_for_the_backward_pass() -> None:
    x, params = random(4, 5, 8, 8).requires_grad_(), params_of("pwlu", 5)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with forms.only("fused"), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forms.apply(PWLU, x, 1, *params)
    assert kept == x.nbytes + sum(param.nbytes for param in params)


def test_kernels_are_what_runs_here() -> None:
    for name, function in FUNCTIONS.items():
        assert forms.kernel_of(name, "cpu") is KERNELS[name]
        assert forms.form_of(function, random(2)) == "fused"
        assert forms.form_of(function, random(2).double()) == "closed"
