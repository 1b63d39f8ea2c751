"""On a GPU: the fused activations against their closed form in float64, in every layout and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from surgery.activations.dispatch import Function, apply, form_of, gradients_of, kernel_of, only, value_of
from surgery.activations.functions.affine import AFFINE
from surgery.activations.functions.piecewise import PWLU
from surgery.activations.functions.prelu import FRELU, PRELU
from surgery.activations.functions.smelu import SMELU
from surgery.activations.functions.swish import SWISH

pytestmark = pytest.mark.gpu

FUNCTIONS = (FRELU, PRELU, PWLU, SMELU, SWISH, AFFINE)
# Half a unit in the last place, and what the hardware's own division and exponential are off by.
STEP = {torch.float32: 4e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SHAPES = {
    "planes": (8, 24, 28, 28),
    "odd planes": (6, 20, 7, 7),
    "one image": (1, 65, 14, 14),
    "sequence": (4, 12, 33),
    "table": (130, 70),
}


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def triton() -> None:
    pytest.importorskip("triton")


def parameters(name: str, channels: int, device: torch.device, intervals: int = 16) -> list[Tensor]:
    some = [torch.rand(channels, device=device) for _ in range(4)]
    if name == "pwlu":
        heights = torch.randn(intervals + 1, channels, device=device).cumsum(0) / intervals
        return [heights, -some[0] - 2, some[1] + 2, some[2] - 0.5, some[3] - 0.5]
    return [some[0] + 0.3, some[1] - 0.5][: 2 if name in ("frelu", "affine") else 1]


def ways(device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    for shape in SHAPES.values():
        x = (1.5 * torch.randn(shape, device=device)).to(dtype)
        yield x
        if x.dim() == 4:
            yield x.to(memory_format=torch.channels_last)
            yield x[:, :, ::2]
    yield torch.randn(64, 31, device=device, dtype=dtype).t()


def check(function: Function, x: Tensor, params: list[Tensor]) -> None:
    """Value, layout and all gradients, twice."""
    assert form_of(function, x) == "fused"
    grad = torch.randn(x.shape, device=x.device).to(x.dtype)
    found = []
    for _ in range(2):
        leaf, *leaves = (tensor.detach().requires_grad_() for tensor in (x, *params))
        y = apply(function, leaf, 1, *leaves)
        assert y.dtype == x.dtype and y.stride() == torch.empty_like(x).stride()
        found.append([y.detach(), *torch.autograd.grad(y, (leaf, *leaves), grad)])
    assert all(torch.equal(got, other) for got, other in zip(*found, strict=True)), "not the same twice"

    exact = [param.double() for param in params]
    wanted = [value_of(function, 1, x.double(), exact), *gradients_of(function, 1, grad.double(), x.double(), exact)]
    # Parameters get sums of up to as many terms as x has numbers.
    close = [(STEP[x.dtype], 1e-5)] * 2 + [(1e-4, 1e-4 * x.numel() ** 0.5)] * len(params)
    for tensor, other, (rtol, atol) in zip(found[0], wanted, close, strict=True):
        torch.testing.assert_close(tensor.double(), other, rtol=1.01 * rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda item: item.name)
def test_values_and_gradients(function: Function, dtype: torch.dtype, device: torch.device) -> None:
    for x in ways(device, dtype):
        check(function, x, parameters(function.name, x.shape[1], device))
        check(function, x, parameters(function.name, 1, device))


@pytest.mark.parametrize("intervals", [1, 3, 6, 32, 64, 65])
def test_any_number_of_intervals(intervals: int, device: torch.device) -> None:
    x = 1.5 * torch.randn(8, 40, 14, 14, device=device)
    for given in (x, x.to(memory_format=torch.channels_last)):
        check(PWLU, given, parameters("pwlu", 40, device, intervals))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda item: item.name)
def test_infinities_and_what_is_no_number(function: Function, device: torch.device) -> None:
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0, 1.0], device=device).expand(3, 5).contiguous()
    params = parameters(function.name, 5, device)
    found = apply(function, x, 1, *params)
    torch.testing.assert_close(found, value_of(function, 1, x, params), equal_nan=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda item: item.name)
def test_compiled_without_a_break(function: Function, layout: torch.memory_format, device: torch.device) -> None:
    torch.compiler.reset()
    assert kernel_of(function.name, "cuda")
    operator = getattr(torch.ops.surgery, function.name)
    x = torch.randn(4, 24, 14, 14, device=device).to(memory_format=layout).requires_grad_()
    params = [param.requires_grad_() for param in parameters(function.name, 24, device)]
    grad = torch.randn_like(x)
    wanted = torch.autograd.grad(apply(function, x, 1, *params), (x, *params), grad)
    for computed in (
        torch.compile(lambda x, *params: apply(function, x, 1, *params), fullgraph=True),
        # The operator among others, whose output the compiler may lay out as it likes.
        torch.compile(lambda x, *params: operator(x + 0, 1, *params) * 1, fullgraph=True),
    ):
        y = computed(x, *params)
        torch.testing.assert_close(y, apply(function, x, 1, *params), rtol=1e-4, atol=1e-5)
        found = torch.autograd.grad(y, (x, *params), grad)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_autocast(device: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device)
    with torch.autocast("cuda", torch.float16):
        x = model(torch.randn(2, 3, 9, 9, device=device))
        y = apply(FRELU, x, 1, *parameters("frelu", 8, device))
    assert x.dtype == y.dtype == torch.float16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("function", [FRELU, PWLU], ids=lambda item: item.name)
def test_more_numbers_than_32_bits_count(function: Function, layout: torch.memory_format, device: torch.device) -> None:
    shape = (3, 2, 2**15, 11_000)
    size = 2 * torch.Size(shape).numel()
    assert size > 2**32
    if torch.cuda.mem_get_info(device)[0] < 6 * size:
        pytest.skip(f"{6 * size / 2**30:.0f} GiB are not free")
    x = torch.zeros(shape, dtype=torch.float16, device=device).to(memory_format=layout)
    x[-1, -1, -1, -9:] = torch.linspace(-4, 4, 9)
    params = [param.requires_grad_() for param in parameters(function.name, 2, device)]
    x.requires_grad_()
    y = apply(function, x, 1, *params)
    grad = torch.zeros_like(x)
    grad[-1, -1, -1, -9:] = 1
    of_x, *of_params = torch.autograd.grad(y, (x, *params), grad)
    with only("closed"):
        few = x.detach()[-1:, :, -1:, -9:].contiguous().requires_grad_()
        wanted = apply(function, few, 1, *params)
        of_few, *wanted_params = torch.autograd.grad(wanted, (few, *params), grad[-1:, :, -1:, -9:].contiguous())
    torch.testing.assert_close(y[-1:, :, -1:, -9:], wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(of_x[-1:, :, -1:, -9:], of_few, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(of_params, wanted_params, rtol=1e-3, atol=1e-3)
