"""PWLU: it represents exactly what it can, its phases change nothing else, and it survives saving and copying."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import surgery
from surgery.activations import dispatch as forms
from surgery.activations.functions import piecewise
from surgery.activations.functions.pwlu import LIKE, MOST_INTERVALS, PWLU, Folded
from surgery.activations.input_stats import InputStats, Starting, start
from surgery.errors import BadValue, UnknownName
from tests.processes import in_two

PARAMS = ["heights", "left", "right", "low_slope", "high_slope"]


def perturbed(module: nn.Module, size: float = 0.1) -> nn.Module:
    """The module with its parameters moved at random."""
    with torch.no_grad():
        for param in module.parameters():
            param.add_(size * torch.randn_like(param))
    return module


def assert_relu(module: PWLU, x: Tensor) -> None:
    """Equal to ReLU bit for bit, but for numbers so small that they vanish beside the bounds."""
    vanishing = 2e-7 * torch.maximum(module.left.abs(), module.right.abs()).max()
    found, wanted = module(x), F.relu(x)
    assert torch.equal(torch.where(x.abs() > vanishing, found, 0.0), torch.where(x.abs() > vanishing, wanted, 0.0))
    assert (found - wanted).abs().max() <= vanishing


def published(x: Tensor, heights: Tensor, left: Tensor, right: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The paper's formula, channels last, one region after the other."""
    intervals = len(heights) - 1
    width = (right - left) / intervals
    y = torch.where(x < left, (x - left) * low + heights[0], (x - right) * high + heights[-1])
    for i in range(intervals):
        begin = left + i * width
        line = heights[i] + (x - begin) * (heights[i + 1] - heights[i]) / width
        y = torch.where((x >= begin) & (x < (right if i == intervals - 1 else begin + width)), line, y)
    return y


# -- the function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("intervals", [1, 2, 5, 16])
def test_the_published_formula_and_its_gradients(channels: int, intervals: int) -> None:
    module = perturbed(PWLU(channels, intervals, axis=-1).double())
    x = (4 * torch.randn(50, 3, dtype=torch.float64)).requires_grad_()
    leaves = [x, *module.parameters()]
    wanted, found = published(x, *module.parameters()), module(x)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    wanted, found = (torch.autograd.grad((tensor * weights).sum(), leaves) for tensor in (wanted, found))
    for got, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, other)


@pytest.mark.parametrize("form", ["formula", "closed"])
@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_by_differences(form: str, channels: int) -> None:
    module = perturbed(PWLU(channels, 3, axis=1).double(), 0.2)
    x = torch.linspace(-4.7, 4.9, 12, dtype=torch.float64).reshape(2, 2, 3).requires_grad_()
    params = [param.detach().clone().requires_grad_() for param in module.parameters()]
    anchors = piecewise.tables(*params)[0].detach()
    assert (x.detach()[..., None, None] - anchors).abs().min() > 1e-3, "too near to a knot for differences"
    with forms.only(form):
        function = lambda x, *params: forms.apply(piecewise.PWLU, x, 1, *params)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, *params))
        assert torch.autograd.gradgradcheck(function, (x, *params))


@pytest.mark.parametrize("form", ["formula", "closed"])
def test_a_knot_belongs_to_the_interval_right_of_it(form: str) -> None:
    module = PWLU(1, 2, 4.0)
    with torch.no_grad():
        module.heights.copy_(torch.tensor([0.0, 4.0, 12.0])[:, None])
        module.low_slope.fill_(-5.0)
        module.high_slope.fill_(7.0)
    x = torch.tensor([-5.0, -4.0, 0.0, 4.0], requires_grad=True)
    with forms.only(form):
        (slopes,) = torch.autograd.grad(module(x).sum(), x)
    assert slopes.tolist() == [-5.0, 1.0, 2.0, 7.0]


@settings(max_examples=25)
@given(st.integers(1, 20), st.floats(0.05, 50), st.integers(0, 10_000))
def test_continuous_at_every_knot(intervals: int, bound: float, seed: int) -> None:
    torch.manual_seed(seed)
    module = PWLU(1, intervals, bound).double()
    for param in (module.heights, module.low_slope, module.high_slope):
        nn.init.normal_(param)
    anchors, bases, slopes = piecewise.tables(*module.parameters())
    gap = 1e-9 * bound
    apart = module(anchors.flatten() + gap) - module(anchors.flatten() - gap)
    assert apart.abs().max() <= 2.1 * gap * slopes.abs().max() + 1e-12
    torch.testing.assert_close(module(anchors.flatten()), bases.flatten())


def test_shapes_layouts_types_and_what_is_no_number() -> None:
    module = perturbed(PWLU(3, 4))
    x = 3 * torch.randn(2, 3, 4, 4)
    rows = module(x.movedim(1, -1).reshape(-1, 3)).reshape(2, 4, 4, 3).movedim(-1, 1)
    torch.testing.assert_close(module(x), rows)
    last = x.to(memory_format=torch.channels_last)
    assert module(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(last), module(x))
    for dtype in (torch.float16, torch.bfloat16):
        low = module(x.to(dtype))
        assert low.dtype == dtype
        torch.testing.assert_close(low, module(x.to(dtype).float()).to(dtype))
    assert module(x[:0]).shape == (0, 3, 4, 4)
    shared = perturbed(PWLU())
    assert shared(torch.tensor(0.3)).shape == () and shared.folded()(torch.tensor(0.3)).shape == ()
    with forms.only("closed"):
        odd = PWLU(1, 4)(torch.tensor([torch.nan, torch.inf]))
    assert odd[0].isnan() and odd[1] == torch.inf


def test_bounds_that_cross_stay_apart_and_find_back() -> None:
    module = PWLU(2, 4)
    with torch.no_grad():
        module.left.copy_(torch.tensor([1.0, 1e4]))
        module.right.copy_(torch.tensor([-1.0, 1e4]))
        module.heights.copy_(torch.arange(5.0)[:, None])
    x = torch.cat([torch.linspace(-3, 3, 64), 1e4 + torch.linspace(-3, 3, 64)])[:, None].expand(-1, 2)
    found = module(x)
    found.sum().backward()
    assert found.isfinite().all()
    for param in module.parameters():
        assert param.grad is not None and param.grad.isfinite().all()
    assert module.right.grad is not None and (module.right.grad != 0).all()


# -- beginning as another function ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["formula", "closed"])
@pytest.mark.parametrize(("intervals", "bound"), [(1, 3.0), (2, 0.7), (15, 3.0), (16, 3.0), (16, 0.123), (100, 9.0)])
def test_it_begins_as_relu_bit_for_bit(intervals: int, bound: float, form: str) -> None:
    x = 3 * bound * torch.randn(500)
    with forms.only(form):
        assert_relu(PWLU(1, intervals, bound), x)


@settings(max_examples=25)
@given(st.integers(1, 20), st.floats(-20, 20), st.floats(0.05, 20), st.integers(0, 10_000))
def test_what_is_piecewise_linear_on_its_knots_is_met(intervals: int, low: float, width: float, seed: int) -> None:
    torch.manual_seed(seed)
    wanted, module = PWLU(2, intervals).double(), PWLU(2, intervals).double()
    with torch.no_grad():
        wanted.left.fill_(low)
        wanted.right.fill_(low + width)
        for param in (wanted.heights, wanted.low_slope, wanted.high_slope):
            param.normal_()
    module.axis = wanted.axis = -1
    error = module.fit(wanted, low, low + width)
    assert error < 1e-10
    for param, other in zip(module.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(param, other, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("snap", [True, False])
@settings(max_examples=30)
@given(st.floats(-30, 30), st.floats(0, 20), st.integers(1, 20))
def test_bounds_from_what_was_seen(snap: bool, mean: float, deviation: float, intervals: int) -> None:
    ones = torch.ones(2)
    seen = InputStats(mean * ones, deviation * ones, (mean - 4 * deviation) * ones, (mean + 4 * deviation) * ones)
    module = PWLU(2, intervals, snap=snap)
    error = start(module, F.relu, seen)
    assert (module.left < module.right).all()
    if not snap:
        if deviation > 0.01:
            torch.testing.assert_close(module.left, seen.mean - 3 * seen.deviation, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(module.right, seen.mean + 3 * seen.deviation, atol=1e-4, rtol=1e-4)
        return
    knots = piecewise.tables(*module.parameters())[0]
    assert (knots == 0).any(0).all()
    if intervals > 1:
        assert (module.left <= seen.mean - 3 * seen.deviation).all()
        assert (module.right >= seen.mean + 3 * seen.deviation).all()
    x = torch.linspace(-100, 100, 999)[:, None].expand(-1, 2)
    with forms.only("closed"):
        torch.testing.assert_close(module(x), F.relu(x), atol=1e-5, rtol=1e-6)  # far from bounds near zero, rounding
    assert error < 1e-4


@settings(max_examples=30)
@given(st.floats(-30, 30), st.floats(0, 20), st.integers(1, 20), st.floats(0.1, 100))
def test_a_clipped_relu_is_met_wherever_its_input_was_seen(
    mean: float, deviation: float, intervals: int, cap: float
) -> None:
    ones, x = torch.ones(2), torch.linspace(-2, 3, 501)[:, None].expand(-1, 2)
    seen = InputStats(mean * ones, deviation * ones, (mean - 4 * deviation) * ones, (mean + 4 * deviation) * ones)
    for limit, rounding in ((6.0, 1e-6), (cap, 1e-5)):  # the knots of other caps are not exact
        module = PWLU(2, intervals)
        start(module, nn.Hardtanh(0.0, limit), seen)
        found, wanted = module(limit * x), (limit * x).clamp(0.0, limit)
        torch.testing.assert_close(found, wanted, rtol=0, atol=rounding * limit)


@pytest.mark.parametrize("intervals", [1, 4, 5, 16])
def test_as_relu6_it_has_knots_at_zero_and_six(intervals: int) -> None:
    module, x = PWLU(1, intervals, like="relu6"), torch.linspace(-20, 20, 4001)
    knots = piecewise.tables(*module.parameters())[0]
    assert (knots == 0).any() and (knots == 6).any()
    assert torch.equal(module(x), F.relu6(x))


def test_other_functions_with_knots_on_the_grid() -> None:
    slopes, x = torch.tensor([0.1, -0.3, 0.0]), 5 * torch.randn(40, 3)
    seen = InputStats(torch.zeros(3), torch.tensor([1.0, 2.0, 0.3]), -9 * torch.ones(3), 9 * torch.ones(3))
    module = PWLU(3)
    assert isinstance(module, Starting)
    assert start(module, lambda rows: F.prelu(rows, slopes), seen) < 1e-5
    torch.testing.assert_close(module(x), F.prelu(x, slopes), atol=1e-5, rtol=1e-5)
    assert module.fit(F.relu6, -2, 14) < 1e-5  # knots at every whole number
    torch.testing.assert_close(module(3 * x), F.relu6(3 * x), atol=1e-5, rtol=1e-5)
    shared = PWLU()
    shared.start_as(lambda rows: F.prelu(rows, slopes), seen)
    torch.testing.assert_close(shared(x), F.leaky_relu(x, slopes.mean().item()), atol=1e-5, rtol=1e-5)


def test_the_error_for_gelu_falls_with_the_square_of_the_intervals() -> None:
    errors = [PWLU(1, intervals).fit(F.gelu, -4, 4) for intervals in (16, 32, 64)]
    assert errors[0] < 0.0168
    for got, other in pairwise(errors):
        assert 3.8 < got / other < 4.3


@pytest.mark.parametrize("name", sorted(LIKE))
def test_every_name_is_met_on_its_range(name: str) -> None:
    function, x = LIKE[name](), torch.linspace(-3, 3, 200)
    most = 0.12 if name in ("hardtanh", "hardsigmoid", "squared_relu") else 0.025
    assert (PWLU(like=name)(x) - function(x)).abs().max() < most


def test_a_function_that_works_in_place_or_in_another_type() -> None:
    assert PWLU(like=nn.ReLU(inplace=True)).fit(lambda rows: F.relu(rows, inplace=True), -2, 2) < 1e-6
    weight = torch.tensor([0.25, 0.5])
    like = nn.PReLU(2).bfloat16()
    with torch.no_grad():
        like.weight.copy_(weight)
    x = torch.randn(9, 2)
    torch.testing.assert_close(PWLU(2, like=like)(x), F.prelu(x, weight), atol=1e-5, rtol=1e-5)
    assert like.weight.requires_grad, "the module that was given is left alone"
    low = PWLU(4, like="relu").bfloat16()
    assert torch.equal(low(x[:, :1].bfloat16().expand(-1, 4)), F.relu(x[:, :1].bfloat16().expand(-1, 4)))


def test_refusals_change_nothing() -> None:
    for wrong in ({"channels": 0}, {"intervals": 0}, {"bound": 0.0}, {"bound": float("nan")}, {"warmup": 1.0}):
        with pytest.raises(BadValue):
            PWLU(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="gelu"):
        PWLU(like="gleu")
    module = PWLU(2)
    before = copy.deepcopy(module.state_dict())
    for function, low, high in ((F.relu, 1.0, 1.0), (F.relu, 2.0, -2.0), (torch.log, -1.0, 1.0)):
        with pytest.raises(BadValue):
            module.fit(function, low, high)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with pytest.raises(BadValue, match="channels"):
        PWLU(3)(torch.randn(2, 4))
    with pytest.raises(BadValue, match="channels"):
        PWLU(3, warmup=0.1)(torch.randn(2, 4))


# -- phases -----------------------------------------------------------------------------------------------------------


def batches(count: int = 5) -> list[Tensor]:
    """Batches whose channels differ in mean and deviation."""
    scale, shift = torch.tensor([1.0, 2.0, 0.5])[:, None, None], torch.tensor([0.3, -1.0, 0.0])[:, None, None]
    return [scale * torch.randn(4, 3, 5, 5) + shift for _ in range(count)]


def gathered(data: list[Tensor], dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The running mean and deviation, as documented."""
    mean = deviation = torch.zeros(())
    for i, x in enumerate(data):
        weight = max(1 / (i + 1), 0.1)
        mean = mean + weight * (x.mean(dims) - mean)
        deviation = deviation + weight * (x.std(dims, correction=0) - deviation)
    return mean, deviation


@pytest.mark.parametrize("like", ["relu", "gelu", nn.PReLU(3), None])
def test_in_warm_up_it_is_the_replaced_function_and_learns_nothing(like: str | nn.Module | None) -> None:
    module = PWLU(3, warmup=0.1, like=like)
    module.set_progress(0.05)
    replaced = LIKE[like]() if isinstance(like, str) else like or copy.deepcopy(module).eval()
    for x in batches(2):
        x.requires_grad_()
        found = module(x)
        assert torch.equal(found, replaced(x))
        found.sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(param.grad is None for param in module.parameters())
    module.set_progress(0.1)
    module(batches(1)[0]).sum().backward()
    assert all(getattr(module, name).grad is not None for name in PARAMS)
    module.set_progress(0.0)
    assert all(param.grad is None for param in module.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_statistics_and_realignment(shared: bool) -> None:
    module, data = PWLU(1 if shared else 3, 15, warmup=0.5, snap=False), batches(13)
    identities = [id(param) for param in module.parameters()]
    for x in data:
        module(x)
        module.eval()(100 + x)
        module.train()
    dims = (0, 1, 2, 3) if shared else (0, 2, 3)
    mean, deviation = gathered(data, dims)
    torch.testing.assert_close(module.running_mean, mean.reshape(-1))
    torch.testing.assert_close(module.running_deviation, deviation.reshape(-1))
    module.set_progress(0.5)
    torch.testing.assert_close(module.left, (mean - 3 * deviation).reshape(-1))
    torch.testing.assert_close(module.right, (mean + 3 * deviation).reshape(-1))
    assert [id(param) for param in module.parameters()] == identities
    with torch.no_grad():
        module.left.sub_(1)
    before = module.left.clone()
    module.set_progress(0.6)
    module.set_progress(1.0)
    assert torch.equal(module.left, before), "realigned twice"
    assert torch.equal(module.running_mean, mean.reshape(-1)) or torch.allclose(module.running_mean, mean.reshape(-1))


@pytest.mark.parametrize(("like", "snap", "most"), [("relu", True, 0), ("relu", False, 0.2), ("gelu", True, 0.03)])
def test_the_jump_at_realignment(like: str, snap: bool, most: float) -> None:
    module, data = PWLU(3, warmup=0.5, snap=snap, like=like), batches()
    for x in data:
        module(x)
    before = module(data[0])
    module.set_progress(0.5)
    with forms.only("closed"):
        assert (module(data[0]) - before).abs().max() <= most


def test_without_training_it_keeps_its_bounds_and_without_warm_up_it_has_no_phases() -> None:
    module = PWLU(3, warmup=0.5).eval()
    module(batches(1)[0])
    before = copy.deepcopy(module.state_dict())
    module.set_progress(0.9)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    plain = PWLU(3)
    plain.set_progress(0.0)
    assert list(plain.state_dict()) == PARAMS and not plain.gathering
    plain(batches(1)[0]).sum().backward()
    plain.set_progress(0.5)
    assert plain.heights.grad is not None


@pytest.mark.parametrize(
    "optimiser", [lambda params: torch.optim.SGD(params, 0.1, momentum=0.9), lambda params: torch.optim.AdamW(params)]
)
def test_optimisers_move_nothing_in_warm_up_and_the_same_parameters_after_it(
    optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    module = PWLU(3, warmup=0.5)
    steps = optimiser([getattr(module, name) for name in PARAMS])

    def train() -> None:
        for x in batches(2):
            module(x.requires_grad_()).square().sum().backward()
            steps.step()
            steps.zero_grad(set_to_none=False)

    before = copy.deepcopy([getattr(module, name) for name in PARAMS])
    train()
    assert all(torch.equal(getattr(module, name), tensor) for name, tensor in zip(PARAMS, before, strict=True))
    module.set_progress(0.5)
    realigned = copy.deepcopy([getattr(module, name) for name in PARAMS])
    train()
    moved = [not torch.equal(getattr(module, name), tensor) for name, tensor in zip(PARAMS, realigned, strict=True)]
    assert moved[:3] == [True, True, True]  # beyond the bounds there may have been nothing
    module.set_progress(0.2)  # momentum is there now: only the missing gradient keeps them where they are
    before = copy.deepcopy([getattr(module, name) for name in PARAMS])
    train()
    assert all(torch.equal(getattr(module, name), tensor) for name, tensor in zip(PARAMS, before, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_does_not_count_twice(reentrant: bool) -> None:
    module, other = PWLU(3, warmup=0.5), PWLU(3, warmup=0.5)
    for x in batches():
        other(x)
        checkpoint(module, x.requires_grad_(), use_reentrant=reentrant).sum().backward()
    assert int(module.gathered) == 5
    assert torch.equal(module.running_mean, other.running_mean)


def test_no_graph_is_kept_and_odd_batches_move_nothing() -> None:
    module, (x,) = PWLU(3, warmup=0.5), batches(1)
    module(x.requires_grad_() * 1)
    before = copy.deepcopy(module.state_dict())
    assert not any(buffer.requires_grad for buffer in module.buffers())
    module(torch.randn(0, 3, 2, 2))
    module(torch.full((2, 3, 2, 2), torch.nan))
    assert torch.equal(module.running_mean, before["running_mean"])
    assert torch.equal(module.running_deviation, before["running_deviation"])
    for shape in ((3,), (7, 3), (2, 3, 4), (2, 3, 2, 2, 2)):
        own, shared = PWLU(3, warmup=0.5), PWLU(warmup=0.5)
        x = torch.randn(shape)
        own(x)
        shared(x)
        rows = x.movedim(1, -1).reshape(-1, 3) if len(shape) > 1 else x[None]
        torch.testing.assert_close(own.running_mean, rows.mean(0))
        torch.testing.assert_close(own.running_deviation, rows.std(0, correction=0))
        torch.testing.assert_close(shared.running_mean, x.mean()[None])
    shared(torch.tensor(2.0))


def test_per_sample_gradients_gather_nothing() -> None:
    module, x = PWLU(3, warmup=0.5), torch.randn(4, 3)
    torch.func.vmap(torch.func.grad(lambda row: module(row).sum()))(x)
    assert int(module.gathered) == 0


def test_copies_and_saved_states_across_phases() -> None:
    module, data = PWLU(3, warmup=0.5), batches()
    for x in data[:3]:
        module(x)
    resumed = PWLU(3, warmup=0.5)
    resumed.load_state_dict(module.state_dict())
    average = copy.deepcopy(module)
    for network in (module, resumed, average):
        for x in data[3:]:
            network(x)
        network.set_progress(0.5)
    for network in (resumed, average):
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in network.state_dict().items())
    perturbed(module)
    fresh = PWLU(3, warmup=0.5)
    fresh.load_state_dict(module.state_dict())
    fresh.set_progress(0.7)
    assert torch.equal(fresh(data[0]), module(data[0])), "what was learned is not fitted again"
    assert "warmup=0.5" in repr(fresh) and "intervals=16" in repr(PWLU(3))


def two_warming_up() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), PWLU(4, warmup=0.5), nn.Conv2d(4, 2, 1), PWLU(warmup=0.5))


def gather_statistics(rank: int, folder: Path) -> None:
    model, batches = two_warming_up(), torch.load(folder / "images.pt")
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    for images in batches:
        parallel(images[:1] if rank == 0 else images[1:]).square().mean().backward()
    surgery.set_progress(model, 0.5)
    parallel(batches[-1]).square().mean().backward()
    torch.save(model.state_dict() | {"grad": model[1].heights.grad}, folder / f"{rank}.pt")


def test_two_processes_gather_what_one_would(tmp_path: Path) -> None:
    images = [torch.randn(4, 3, 5, 5) * (i + 1) + i for i in range(3)]
    torch.save(images, tmp_path / "images.pt")
    in_two(gather_statistics, tmp_path)
    model = two_warming_up()
    for x in images:
        model(x)
    surgery.set_progress(model, 0.5)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first.pop("grad").abs().sum() > 0 and second.pop("grad") is not None
    for name, value in model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-5)


# -- deployment and other tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_folded_form(channels: int) -> None:
    module = perturbed(PWLU(channels, 7))
    folded, x = module.folded(), 4 * torch.randn(2, 3, 5, 5)
    assert isinstance(folded, Folded) and not list(folded.parameters())
    torch.testing.assert_close(folded(x), module(x), atol=2e-6, rtol=1e-5)
    low = copy.deepcopy(folded).half()(x.half())
    assert low.dtype == torch.float16
    torch.testing.assert_close(low.float(), module(x), atol=1e-2, rtol=1e-2)
    before = folded(x)
    perturbed(module)
    assert torch.equal(folded(x), before)
    assert "intervals=7" in repr(folded)
    torch.testing.assert_close(torch.export.export(folded, (x,)).module()(x), before)


def test_the_folded_form_follows_its_tables_whatever_changes_them() -> None:
    """It keeps views of them."""
    folded, other = (perturbed(PWLU(3, 4)).folded() for _ in range(2))
    x = 4 * torch.randn(2, 3, 5, 5)
    first = folded(x)
    assert not torch.equal(other(x), first)
    with torch.inference_mode():
        assert torch.equal(folded(x), first)
    assert torch.equal(pickle.loads(pickle.dumps(folded))(x), first)
    twin = copy.deepcopy(folded)
    twin.bases.add_(1.0)
    torch.testing.assert_close(twin(x), first + 1.0)
    assert torch.equal(folded(x), first), "a copy has tables of its own"
    folded.bases.data.add_(2.0)  # no version is counted
    torch.testing.assert_close(folded(x), first + 2.0)
    folded.bases = folded.bases + 1.0
    torch.testing.assert_close(folded(x), first + 3.0)
    folded.bases.data = folded.bases - 3.0
    torch.testing.assert_close(folded(x), first)
    folded.load_state_dict(other.state_dict())
    assert torch.equal(folded(x), other(x))
    torch.testing.assert_close(folded.double()(x.double()), other(x).double(), atol=1e-5, rtol=1e-5)
    folded.to("meta").to_empty(device="cpu").load_state_dict(other.state_dict())
    torch.testing.assert_close(folded(x), other(x))
    folded.load_state_dict(twin.state_dict(), assign=True)
    assert torch.equal(folded(x), twin(x))
    part = copy.deepcopy(folded)
    part(x)
    for name, table in list(part.named_buffers()):
        setattr(part, name, table[:, :2])
    assert torch.equal(part(x[:, :2]), folded(x)[:, :2])
    del part.__dict__["_kept"]  # as in what an earlier version has pickled
    assert torch.equal(part(x[:, :2]), folded(x)[:, :2])
    x.requires_grad_()
    folded(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())
    folded.bases.requires_grad_()
    folded(x).sum().backward()
    assert folded.bases.grad is not None and float(folded.bases.grad.sum()) == pytest.approx(x.numel(), rel=1e-4)


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_compiled_whole(warmup: float) -> None:
    module, (x,) = PWLU(3, 4, warmup=warmup), batches(1)
    other = copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for progress in (0.0, 0.5):
        for network in (module, other):
            network.set_progress(progress)
        results = [network(x.detach().requires_grad_()) for network in (compiled, other)]
        torch.testing.assert_close(*results, atol=2e-6, rtol=1e-5)
        for result in results:
            result.square().sum().backward()
        for param, same in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(param.grad, same.grad, atol=1e-4, rtol=1e-4)
    for buffer, same in zip(module.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, same)


def test_on_meta() -> None:
    with torch.device("meta"):
        module = PWLU(3, warmup=0.1)
        assert module(torch.randn(2, 3, 4, 4)).is_meta


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("shared", [True, False])
def test_pruned_by_half_it_keeps_computing_on_the_channels_that_stay(shared: bool) -> None:
    unit = perturbed(PWLU(1 if shared else 8, 5))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), unit, nn.Conv2d(8, 4, 3)).eval()
    whole, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    alone = [unit.heights] if shared else []
    importance = tp.importance.MagnitudeImportance(p=2)
    tp.pruner.BasePruner(model, x, importance, pruning_ratio=0.5, ignored_layers=[model[2], *alone]).step()
    assert model[0].out_channels == 4
    kept = [next(i for i in range(8) if torch.equal(row, whole[0].weight[i])) for row in model[0].weight]
    for name in PARAMS:
        param, before = getattr(model[1], name), getattr(whole[1], name)
        assert torch.equal(param, before if shared else before[..., kept]), name
    wanted = F.conv2d(whole[1](whole[0](x))[:, kept], whole[2].weight[:, kept], whole[2].bias)
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-4)
    model(x).sum().backward()
    assert unit.heights.grad is not None


def test_a_table_that_lost_rows_is_refused() -> None:
    module = PWLU(1, 5)
    module.heights = nn.Parameter(module.heights[:4].detach())
    with pytest.raises(BadValue, match="heights"):
        module(torch.randn(3))


def test_the_most_intervals_are_met_and_more_are_refused() -> None:
    most = PWLU(1, intervals=MOST_INTERVALS)
    with pytest.raises(BadValue, match="Too many intervals"):
        PWLU(1, intervals=MOST_INTERVALS + 1)
    x = torch.linspace(-2, 2, 101).unsqueeze(1)
    assert torch.equal(most(x), x.relu())
