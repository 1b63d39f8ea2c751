"""The CPU kernels: values and gradients against the plain formula in double precision, for all x."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.activations import dispatch as forms
from surgery.activations.functions.affine import AFFINE
from surgery.activations.functions.piecewise import PWLU
from surgery.activations.functions.prelu import FRELU, PRELU
from surgery.activations.functions.smelu import SMELU
from surgery.activations.functions.swish import SWISH

pytest.importorskip("numba")

from surgery.activations.kernels import numba_loops
from surgery.activations.kernels.numba_kernels import KERNELS

FUNCTIONS = {function.name: function for function in (PRELU, FRELU, SMELU, SWISH, AFFINE, PWLU)}
NAMES = sorted(FUNCTIONS)
CLOSE = 2e-6  # of the largest entry
HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half a unit in the last place


def params_of(name: str, channels: int, intervals: int = 16) -> list[Tensor]:
    """Parameters that differ in every channel."""
    vary = torch.linspace(0.5, 1.5, channels)
    heights = torch.linspace(-1, 2, intervals + 1).sin().unsqueeze(1) * vary
    return {
        "prelu": [0.3 * vary],
        "frelu": [vary, -0.2 * vary],
        "smelu": [0.8 * vary],
        "swish": [1.3 * vary],
        "affine": [vary, vary - 1],
        "pwlu": [heights, -1.93 * vary, 1.7 * vary, 0.1 * vary, 1.2 * vary],
    }[name]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


def outcome(form: str, name: str, x: Tensor, axis: int, params: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The values, the gradient of x and those of the parameters."""
    x, params = x.detach().requires_grad_(), [param.detach().requires_grad_() for param in params]
    with forms.only(form):
        y = forms.apply(FUNCTIONS[name], x, axis, *params)
        return [y.detach(), *torch.autograd.grad(y, (x, *params), grad)]


def in_double(name: str, x: Tensor, axis: int, params: list[Tensor], grad: Tensor) -> list[Tensor]:
    return outcome("formula", name, x.double(), axis, [param.double() for param in params], grad.double())


def assert_near(found: list[Tensor], wanted: list[Tensor], close: float = CLOSE) -> None:
    for number, (tensor, other) in enumerate(zip(found, wanted, strict=True)):
        error = (tensor.double() - other).abs().max() / other.abs().max().clamp_min(1e-3)
        assert tensor.shape == other.shape and error <= close, f"result {number} is off by {error:.1e}"


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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype"), [("frelu", torch.bfloat16), ("pwlu", torch.bfloat16), ("frelu", torch.half)]
)
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    x, grad = random(3, 5, 7, 9).to(dtype), (random(3, 5, 7, 9, seed=1) + 2).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    params = params_of(name, 5)
    found, wanted = outcome("fused", name, x, 1, params, grad), in_double(name, x, 1, params, grad)
    for tensor, other in zip(found[:2], wanted[:2], strict=True):
        assert tensor.dtype == dtype and tensor.stride() == x.stride()
        assert ((tensor.double() - other).abs() <= HALF[dtype] * other.abs() * 1.01 + 1e-6).all()
    assert_near(found[2:], wanted[2:])


def test_bfloat16_is_rounded_as_torch_does() -> None:
    x = torch.cat([random(999), torch.tensor([0.0, -0.0, torch.inf, 3.3e38, -torch.inf])]).bfloat16()
    scale = torch.tensor([1.0039])
    y = KERNELS["affine"].forward(x, 0, scale, torch.zeros(1))
    assert torch.equal(y, (x.float() * scale).bfloat16())
    all_ones = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # rounded up it would be a zero
    assert KERNELS["affine"].forward(x[:9], 0, all_ones, torch.zeros(1)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_may_be_of_another_type(dtype: torch.dtype) -> None:
    x, grad = random(3, 5, 7), random(3, 5, 7, seed=1) + 2
    params = [param.to(dtype) for param in params_of("frelu", 5)]
    found = outcome("fused", "frelu", x, 1, params, grad)
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32, dtype, dtype]
    assert_near(found, in_double("frelu", x, 1, params, grad), HALF.get(dtype, CLOSE))


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


def test_ties_and_bounds_fall_where_they_do_in_the_closed_form() -> None:
    knots = torch.linspace(-2, 2, 9)
    near = torch.cat([knots, knots.nextafter(knots - 1), knots.nextafter(knots + 1)])
    x, grad = near.repeat(2, 1).T.contiguous(), random(27, 2, seed=1)
    heights = knots.square().unsqueeze(1).repeat(1, 2)
    for axis in (0, 1):
        params = [heights[:, :1], *(torch.tensor([number]) for number in (-2.0, 2.0, 0.5, 3.0))] if axis else [
            heights, *(torch.tensor([number, number]) for number in (-2.0, 2.0, 0.5, 3.0))
        ]  # fmt: skip
        found, wanted = (outcome(form, "pwlu", x, 1, params, grad) for form in ("fused", "closed"))
        torch.testing.assert_close(found, wanted)
        assert torch.equal(found[1], wanted[1])
    beta = torch.tensor([0.5])
    at = torch.tensor([-0.5, 0.5, 0.0])
    found, wanted = (outcome(form, "smelu", at, 0, [beta], torch.ones(3)) for form in ("fused", "closed"))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("intervals", [1, 5, 16, 40])
def test_a_relu_with_a_knot_at_zero_is_exact(intervals: int) -> None:
    knots = torch.arange(intervals + 1) * 0.25 - 0.25 * (intervals // 2)
    ends = [knots[:1], knots[-1:], torch.zeros(1), torch.ones(1)]
    x = random(3, 5, 7, 9) * 3
    with forms.only("fused"):
        y = forms.apply(PWLU, x, 1, knots.relu().unsqueeze(1), *ends)
    assert intervals == 1 or torch.equal(y, x.relu())
    assert_near([y], [forms.apply(PWLU, x.double(), 1, knots.relu().unsqueeze(1).double(), *ends)])


def test_swish_is_near_over_the_whole_range() -> None:
    x = torch.cat([torch.linspace(-110, 110, 40001), random(9999)])
    y = KERNELS["swish"].forward(x, 0, torch.ones(1))
    wanted = x.double() * torch.sigmoid(x.double())
    assert ((y - wanted).abs() <= 3e-7 * wanted.abs() + 1e-35).all()


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


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["frelu", "pwlu"])
def test_results_do_not_depend_on_the_number_of_threads(name: str, channels_last: bool, threads: Any) -> None:
    x, grad = random(8, 16, 32, 32), random(8, 16, 32, 32, seed=1)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(outcome("fused", name, x, 1, params_of(name, 16), grad))
    assert all(torch.equal(got, other) for result in results[1:] for got, other in zip(results[0], result, strict=True))
    assert_near(results[0], in_double(name, x, 1, params_of(name, 16), grad))


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


def test_where_no_folder_can_be_written_loops_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit, asked = numba_loops.njit, []

    def refusing(**options: Any) -> Any:
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    def double(x: int) -> int:
        return 2 * x

    monkeypatch.setattr(numba_loops, "njit", refusing)
    assert numba_loops.compiled()(double)(21) == 42
    assert asked == [True, False]
