"""N-PWLU: its definition and gradients, the order of its knots, and its initialisation as another function."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations import dispatch as forms
from surgery.activations.functions.npwlu import FUNCTION, NPWLU
from surgery.activations.input_stats import InputStats, Starting, start
from surgery.errors import BadValue


def perturbed(module: NPWLU, size: float = 0.2) -> NPWLU:
    """The module with its parameters moved at random."""
    with torch.no_grad():
        for param in module.parameters():
            param.add_(size * torch.randn_like(param))
    return module


def cumulative(x: Tensor, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor) -> Tensor:
    """The definition, channels last: what each interval adds on the way to x."""
    y, knot = height + slopes[0] * (x - start).clamp_max(0), start
    for width, slope in zip(widths.abs(), slopes[1:-1], strict=True):
        y = y + slope * torch.minimum((x - knot).clamp_min(0), width)
        knot = knot + width
    return y + slopes[-1] * (x - knot).clamp_min(0)


@pytest.mark.parametrize("form", ["formula", "closed"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("intervals", [1, 2, 5])
def test_the_definition_and_its_gradients(channels: int, intervals: int, form: str) -> None:
    module = perturbed(NPWLU(channels, intervals, axis=-1).double())
    with torch.no_grad():
        module.widths[0].neg_()  # the absolute value counts
    leaves = [4 * torch.randn(60, 3, dtype=torch.float64), *module.parameters()]
    leaves[0].requires_grad_()
    with forms.only(form):
        found = module(leaves[0])
    wanted = cumulative(*leaves)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    found, wanted = (torch.autograd.grad((tensor * weights).sum(), leaves) for tensor in (found, wanted))
    for got, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, other)


@pytest.mark.parametrize("form", ["formula", "closed"])
@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_by_differences(form: str, channels: int) -> None:
    module = perturbed(NPWLU(channels, 3).double())
    x = torch.linspace(-4.7, 4.9, 12, dtype=torch.float64).reshape(2, 2, 3).requires_grad_()
    params = [param.detach().clone().requires_grad_() for param in module.parameters()]
    with forms.only(form):
        function = lambda x, *params: forms.apply(FUNCTION, x, 1, *params)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, *params))
        assert torch.autograd.gradgradcheck(function, (x, *params))


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_knots_keep_their_order_and_the_function_is_continuous(intervals: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = perturbed(NPWLU(1, intervals).double(), 3.0)
    with torch.no_grad():
        module.widths[0] = 0.0
        x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
        y = module(x)
    assert ((y[1:] - y[:-1]).abs() <= 0.0101 * module.slopes.abs().max()).all()


@pytest.mark.parametrize("intervals", [1, 4, 5, 16])
def test_it_begins_as_relu_bit_for_bit(intervals: int) -> None:
    x = 5 * torch.randn(500)
    assert torch.equal(NPWLU(1, intervals)(x), F.relu(x))
    low = NPWLU(1, intervals).bfloat16()
    assert torch.equal(low(x.bfloat16()), F.relu(x.bfloat16()))


@settings(max_examples=20)
@given(st.floats(-30, 30), st.floats(0, 20))
def test_starting_as_relu_from_anything_seen(mean: float, deviation: float) -> None:
    ones, module = torch.ones(2), NPWLU(2)
    assert isinstance(module, Starting)
    start(module, F.relu, InputStats(mean * ones, deviation * ones, (mean - 9) * ones, (mean + 9) * ones))
    x = torch.linspace(-100, 100, 999)[:, None].expand(-1, 2)
    # Far beyond the last knot the distance to it is rounded.
    torch.testing.assert_close(module(x), F.relu(x), rtol=torch.finfo(x.dtype).eps, atol=0)


def test_starting_as_something_else() -> None:
    seen = InputStats(torch.zeros(3), torch.ones(3), -4 * torch.ones(3), 4 * torch.ones(3))
    errors = [start(NPWLU(3, intervals), F.gelu, seen) for intervals in (4, 8, 16)]
    assert errors[0] < 0.12 and errors[1] < 0.05 and errors[2] < 0.02
    slopes, x = torch.tensor([0.1, -0.3, 0.0]), 5 * torch.randn(40, 3)
    module, shared = NPWLU(3), NPWLU()
    for network in (module, shared):
        start(network, lambda rows: F.prelu(rows, slopes), seen)
    torch.testing.assert_close(module(x), F.prelu(x, slopes), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared(x), F.leaky_relu(x, slopes.mean().item()), atol=1e-5, rtol=1e-5)


def test_shapes_layouts_types_and_copies() -> None:
    module = perturbed(NPWLU(3))
    x = 3 * torch.randn(2, 3, 4, 4)
    last = x.to(memory_format=torch.channels_last)
    assert module(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(last), module(x))
    assert module(x.half()).dtype == torch.float16
    torch.testing.assert_close(module(x.half()), module(x.half().float()).half())
    assert module(x[:0]).shape == (0, 3, 4, 4) and NPWLU()(torch.tensor(2.0)) == 2
    odd = NPWLU()(torch.tensor([torch.nan, torch.inf]))
    assert odd[0].isnan() and odd[1] == torch.inf
    other = NPWLU(3)
    other.load_state_dict(copy.deepcopy(module).state_dict())
    assert torch.equal(other(x), module(x)) and repr(other) == "NPWLU(3, intervals=4)"
    samples = torch.func.vmap(torch.func.grad(lambda row: module(row[None]).sum()))(x)
    torch.testing.assert_close(samples, torch.autograd.grad(module(x.requires_grad_()).sum(), x)[0])


def test_compiled_whole() -> None:
    module, x = perturbed(NPWLU(3)), torch.randn(4, 3, 5)
    torch._dynamo.reset()
    results = [
        (network(leaf), leaf)
        for network in (module, torch.compile(module, fullgraph=True, backend="aot_eager"))
        for leaf in [x.clone().requires_grad_()]
    ]
    grads = [torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()]) for y, leaf in results]
    torch.testing.assert_close(results[0][0], results[1][0])
    for got, other in zip(*grads, strict=True):
        torch.testing.assert_close(got, other, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("shared", [True, False])
def test_pruned_by_half_it_keeps_computing_on_the_channels_that_stay(shared: bool) -> None:
    unit = perturbed(NPWLU(1 if shared else 8))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), unit, nn.Conv2d(8, 4, 3)).eval()
    whole, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    alone = [unit.widths, unit.slopes] if shared else []
    importance = tp.importance.MagnitudeImportance(p=2)
    tp.pruner.BasePruner(model, x, importance, pruning_ratio=0.5, ignored_layers=[model[2], *alone]).step()
    assert model[0].out_channels == 4
    kept = [next(i for i in range(8) if torch.equal(row, whole[0].weight[i])) for row in model[0].weight]
    for name, param in unit.named_parameters():
        before = whole[1].get_parameter(name)
        assert torch.equal(param, before if shared else before[..., kept]), name
    wanted = F.conv2d(whole[1](whole[0](x))[:, kept], whole[2].weight[:, kept], whole[2].bias)
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-4)


def test_refusals() -> None:
    for wrong in ({"channels": 0}, {"intervals": 0}, {"bound": -1.0}):
        with pytest.raises(BadValue):
            NPWLU(**wrong)  # type: ignore[arg-type]
    module = NPWLU()
    module.widths = nn.Parameter(module.widths[:2].detach())
    with pytest.raises(BadValue, match="widths"):
        module(torch.randn(3))
