"""Every function in every form: values, layouts, shapes, dtypes, NaN and infinities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery import activations
from surgery.activations import only
from tests.asserts import assert_raises
from tests.surgery.activations.every import (
    CASES,
    FORMULAS,
    FUSED,
    LEARNED,
    PLAIN,
    SWEPT,
    by_formula,
    dtype_of,
    made,
    numbers,
)  # fmt: skip

CLOSE = {torch.float64: 1e-12, torch.float32: 2e-6}
HALVES = (torch.float16, torch.bfloat16)
# Shape, channel axis and memory format of the same 180 rows of 3 channels.
LAYOUTS: dict[str, tuple[tuple[int, ...], int, torch.memory_format]] = {
    "rows": ((180, 3), 1, torch.contiguous_format),
    "columns": ((3, 180), 0, torch.contiguous_format),
    "a line": ((5, 3, 36), 1, torch.contiguous_format),
    "tokens": ((5, 36, 3), -1, torch.contiguous_format),
    "planes": ((5, 3, 4, 9), 1, torch.contiguous_format),
    "planes, axis from the end": ((5, 3, 4, 9), -3, torch.contiguous_format),
    "planes, channels in front": ((5, 3, 4, 9), 1, torch.channels_last),
    "planes of tokens": ((5, 4, 9, 3), -1, torch.contiguous_format),
    "volumes": ((5, 3, 2, 6, 3), 1, torch.contiguous_format),
    "volumes, channels in front": ((5, 3, 2, 6, 3), 1, torch.channels_last_3d),
}
# What looks up by index lays its result out anew, in the plain formula: that serves exports and transforms.
LOOSE = ("pwlu", "npwlu")


def laid(rows: Tensor, layout: str) -> Tensor:
    """Rows (180, 3) as a tensor of this layout."""
    shape, axis, memory = LAYOUTS[layout]
    axis %= len(shape)
    last = [size for place, size in enumerate(shape) if place != axis]
    return rows.reshape(*last, 3).movedim(-1, axis).contiguous(memory_format=memory)


def as_rows(x: Tensor, layout: str) -> Tensor:
    return x.movedim(LAYOUTS[layout][1], -1).reshape(-1, 3)


def close(found: Tensor, wanted: Tensor, within: float) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=within, atol=within)


def test_what_is_swept() -> None:
    assert len(SWEPT) == len(set(SWEPT)) == 30
    assert set(SWEPT) == set(activations.names()), "a function of the catalogue is not swept, or one of none is"
    learning = {name for name in SWEPT if any(True for _ in activations.build(name, 3).parameters())}
    assert learning == set(LEARNED) == set(FORMULAS)
    assert {name for name in SWEPT if activations.row_of(name).learns} == learning - {"rescu"}, "fixed by default"
    assert set(FUSED) == {name for name in LEARNED if "kernel" in activations.row_of(name).running().get("cpu", "")}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_values(name: str, form: str) -> None:
    for channels in (3, None):
        module, x = made(name, channels, dtype=dtype_of(form)), numbers(200, 3, dtype=dtype_of(form))
        with only(form):
            found = module(x)
        close(found, by_formula(name, module, x), CLOSE[x.dtype])


def test_a_rescu_is_its_two_lines_and_smooth_between() -> None:
    lines = {"low_slope": -0.5, "low_intercept": 1.0, "high_slope": 2.0, "high_intercept": -1.0}
    unit = activations.build("rescu", 2, joint=1.0, **lines).double()
    x = torch.tensor([-9.0, 0.3, 1.3, 9.0], dtype=torch.float64)[:, None].expand(4, 2)  # lines cross at 0.8
    close(unit(x)[:, 0], torch.tensor([5.5, 0.85, 1.6, 17.0]), 1e-7)
    inside = torch.linspace(0.3, 1.3, 101, dtype=torch.float64)[:, None].expand(101, 2)
    close(unit(inside)[:, 0].diff(n=2), torch.full((99,), 2.5 * 0.01**2), 1e-9)  # one parabola, slopes -0.5 to 2


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_numbers_in_every_layout(layout: str, name: str, form: str) -> None:
    dtype, axis = dtype_of(form), LAYOUTS[layout][1]
    rows, x = numbers(180, 3, dtype=dtype), laid(numbers(180, 3, dtype=dtype), layout).requires_grad_()
    module, flat = made(name, axis=axis, dtype=dtype), rows.clone().requires_grad_()
    same = made(name, axis=-1, dtype=torch.float64)
    with only(form):
        y = module(x)
        y.backward(laid(rows.cos(), layout))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.stride() == x.stride() or (form == "formula" and name in LOOSE)
    close(as_rows(y, layout), by_formula(name, module, rows), CLOSE[dtype])
    with only("closed"):
        flat = flat.detach().double().requires_grad_()
        same(flat).backward(rows.double().cos())
    assert x.grad.stride() == x.stride() or (form == "formula" and name in LOOSE)
    close(as_rows(x.grad, layout), flat.grad, CLOSE[dtype])
    for (key, tensor), other in zip(module.named_parameters(), same.parameters(), strict=True):
        assert tensor.grad is not None, key
        close(tensor.grad, other.grad, 30 * CLOSE[dtype])  # sums of 180


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda x: x[:, :, ::2, 1:],
    "every other channel": lambda x: torch.cat([x, x], 1)[:, ::2],
    "transposed": lambda x: x.transpose(2, 3),
    "permuted": lambda x: x.permute(3, 1, 0, 2),
    "expanded": lambda x: x[:1, :, :1].expand(4, 3, 2, 5),
    "one channel for all": lambda x: x[:, :1].expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("view", VIEWS)
def test_what_is_not_contiguous(view: str, name: str, form: str) -> None:
    base = numbers(2, 3, 4, 5, dtype=dtype_of(form)).requires_grad_()
    module, x = made(name, dtype=base.dtype), VIEWS[view](base)
    weights = numbers(*x.shape, dtype=base.dtype, seed=2)
    with only(form):
        y = module(x)
        found = torch.autograd.grad(y, [base, *module.parameters()], weights)
        z = module(x.contiguous())
        wanted = torch.autograd.grad(z, [base, *module.parameters()], weights)
    assert y.shape == x.shape
    for got, other in zip((y, *found), (z, *wanted), strict=True):
        close(got, other, 10 * CLOSE[base.dtype])


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0)], ids=str)
def test_empty_batches(shape: tuple[int, ...], name: str, form: str) -> None:
    x, module = torch.zeros(shape, requires_grad=True), made(name)
    with only(form):
        y = module(x)
        y.sum().backward()
    assert (y.shape, y.dtype, x.grad.shape) == (x.shape, x.dtype, x.shape)
    assert all(param.grad is not None and not param.grad.any() for param in module.parameters())


@pytest.mark.parametrize(("name", "form"), CASES)
def test_single_numbers_and_single_rows(name: str, form: str) -> None:
    shared, apart = made(name, None, dtype=dtype_of(form)), made(name, 3, dtype=dtype_of(form))
    for x, module in ((numbers(dtype=dtype_of(form)), shared), (numbers(7, dtype=dtype_of(form)), shared),
                      (numbers(3, dtype=dtype_of(form)), apart)):  # fmt: skip
        x.requires_grad_()
        rows = x.detach().reshape(1, -1) if module is apart else x.detach().reshape(-1, 1)
        with only(form):
            y = module(x)
            y.sum().backward()
        assert y.shape == x.shape == x.grad.shape
        close(y.reshape(rows.shape), by_formula(name, module, rows), CLOSE[x.dtype])
    assert all(bool(param.grad.isfinite().all()) for param in shared.parameters())


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case[0] in LEARNED])
def test_another_number_of_channels_is_refused(name: str, form: str) -> None:
    for axis, shape in ((1, (2, 4, 3, 3)), (-1, (2, 3, 4)), (1, (3, 1)), (1, (4,))):
        module, x = made(name, 3, axis=axis), torch.randn(shape)
        with only(form):
            assert_raises(surgery.BadValue, lambda module=module, x=x: module(x), "3 channels", str(shape))


# Functions equal to one of torch, which defines the results for infinities and NaN.
EQUAL: dict[str, tuple[str, dict[str, object], Callable[[Tensor], Tensor]]] = {
    "prelu": ("prelu", {"init": 0.3}, lambda x: F.prelu(x, torch.tensor([0.3]))),
    "prelu at 0": ("prelu", {"init": 0.0}, lambda x: F.prelu(x, torch.tensor([0.0]))),
    "frelu": ("frelu", {"negative": 0.3}, lambda x: F.prelu(x, torch.tensor([0.3]))),
    "swish": ("swish", {}, F.silu),
    "smelu": ("smelu", {}, F.relu),
    "gsmelu": ("gsmelu", {"low_slope": 0.5, "height": -0.5}, lambda x: F.leaky_relu(x, 0.5)),
    "gsmelu at 0": ("gsmelu", {}, lambda x: F.prelu(x, torch.tensor([0.0]))),
    "gsmelu down": ("gsmelu", {"low_slope": -0.5}, lambda x: F.leaky_relu(x, -0.5)),
    "rescu": ("rescu", {"low_slope": 0.5}, lambda x: F.leaky_relu(x, 0.5)),
    "affine": ("affine", {"weight": 2.0}, lambda x: 2 * x),
    "helu": ("helu", {}, F.relu),
    "rectified_scores": ("rectified_scores", {}, F.relu),
    "quick_gelu": ("quick_gelu", {}, F.silu),
    "squared_relu": ("squared_relu", {}, F.relu),
    "identity": ("identity", {}, lambda x: x),
}


@pytest.mark.parametrize("form", ["formula", "closed", "fused"])
@pytest.mark.parametrize("key", EQUAL)
def test_infinities_and_what_is_no_number(key: str, form: str) -> None:
    name, options, torchs = EQUAL[key]
    if form == "fused" and name in LEARNED and name not in FUSED:
        return  # it has no such form
    x = torch.tensor([-math.inf, math.inf, math.nan])
    for channels in (None, 1):
        with only(form):
            found = activations.build(name, channels, **options)(x[:, None])[:, 0]
        torch.testing.assert_close(found, torchs(x), equal_nan=True)


@pytest.mark.parametrize("name", ["pwlu", "npwlu"])
def test_infinities_follow_the_outer_lines(name: str) -> None:
    module = activations.build(name, 1, intervals=2)
    with torch.no_grad():
        (module.low_slope if name == "pwlu" else module.slopes[0]).fill_(0.5)
    x = torch.tensor([[-math.inf], [math.inf], [math.nan]])
    for form in ("formula", "closed", "fused")[: 2 + (name in FUSED)]:
        with only(form):
            torch.testing.assert_close(module(x), x, equal_nan=True)


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_beside_parameters_in_single(dtype: torch.dtype, name: str, form: str) -> None:
    x, module = numbers(16, 3, 8, dtype=dtype).requires_grad_(), made(name)
    with only(form):
        y = module(x)
        y.backward(torch.ones_like(y))
    assert y.dtype == x.grad.dtype == dtype
    wanted = by_formula(name, module, x.detach().movedim(1, -1).reshape(-1, 3)).reshape(16, 8, 3).movedim(-1, 1)
    # Rounded once. What is put together of torch's own operations is rounded by each of them.
    unit = torch.finfo(dtype).eps
    steps = 4 if name in ("quick_gelu", "squared_relu") else 1
    torch.testing.assert_close(y.double(), wanted, rtol=0.51 * steps * unit, atol=steps * unit / 100)


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case[0] in LEARNED])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_of_parameters_are_summed_in_single(dtype: torch.dtype, name: str, form: str) -> None:
    """4,096 numbers per channel: a sum in half precision would be off by percents."""
    x, module, exact = numbers(4096, 3, dtype=dtype), made(name), made(name).double()
    with only(form):
        module(x).backward(torch.ones_like(x))
    with only("closed"):
        exact(x.double()).backward(torch.ones_like(x).double())
    for (key, tensor), other in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert tensor.grad.dtype == torch.float32, key
        torch.testing.assert_close(tensor.grad.double(), other.grad, rtol=2e-5, atol=2e-2)


@pytest.mark.parametrize("name", SWEPT)
@pytest.mark.parametrize("training", [True, False])
def test_under_autocast(training: bool, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), made(name)).train(training)
    x = numbers(2, 2, 4, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        between = model[0](x)
        y = model[1](between)
        assert (between.dtype, y.dtype) == (torch.bfloat16, torch.bfloat16)
        assert model[1](between.detach().float()).dtype == torch.float32
        y.float().square().sum().backward()
    rows = between.detach().movedim(1, -1).reshape(-1, 3)
    wanted = by_formula(name, model[1], rows).reshape(2, 4, 4, 3).movedim(-1, 1)
    torch.testing.assert_close(y.detach().double(), wanted, rtol=0.02, atol=1e-3)
    assert all(param.grad is not None and param.grad.dtype == torch.float32 for param in model.parameters())


def test_rectified_scores_are_the_only_head_and_lines_no_activations() -> None:
    roles = {name: activations.row_of(name).role for name in SWEPT}
    assert [name for name in PLAIN if roles[name] == "head"] == ["rectified_scores"]
    assert sorted(name for name in SWEPT if roles[name] == "linear") == ["affine", "identity"]
