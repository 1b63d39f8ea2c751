"""Input statistics, and how each function is initialised to match another one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery import activations
from surgery.activations.catalogue import ROWS
from surgery.activations.input_stats import InputStats, Starting, start
from tests.models import picture
from tests.surgery.activations.every import LEARNED, PLAIN, made, numbers

CHANNELS = 3


def seen(dims: int = 2) -> InputStats:
    """Three channels with different inputs, each with both signs."""
    rows = numbers(400, CHANNELS) / 2 + torch.tensor([-0.5, 0.0, 1.0])
    x = rows.reshape(100, *[2] * (dims - 2), -1, CHANNELS).movedim(-1, 1) if dims > 2 else rows
    return InputStats.of(x, 1)


# -- what was seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 3), 1), ((40, 3), -1), ((8, 3, 5), 1), ((2, 4, 5, 3), -1), ((3, 40), 0)]
)
def test_of_a_tensor(shape: tuple[int, ...], axis: int) -> None:
    x = numbers(*shape)
    rows, found = x.movedim(axis, -1).reshape(-1, 3), InputStats.of(x.float(), axis)
    wanted = (rows.mean(0), rows.std(0, correction=0), rows.amin(0), rows.amax(0))
    for tensor, other in zip((found.mean, found.deviation, found.low, found.high), wanted, strict=True):
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor.double(), other, atol=1e-6, rtol=1e-6)
    assert (found.dims, found.axis) == (len(shape), axis)


def test_of_a_row_and_of_half_precision() -> None:
    found = InputStats.of(torch.tensor([1.0, 3.0]), 1)
    assert (found.mean.tolist(), found.deviation.tolist()) == ([2.0], [1.0])
    big = InputStats.of(torch.full((100, 1), 60000.0, dtype=torch.float16), 1)  # whose sum is too much for its type
    assert big.mean.tolist() == [60000.0]


def test_of_nothing_a_standard_normal() -> None:
    found = InputStats.nothing(2)
    assert found.mean.tolist() == [0, 0] and found.deviation.tolist() == [1, 1]
    assert found.low.tolist() == [-4, -4] and found.high.tolist() == [4, 4]


def test_of_all_channels_together() -> None:
    x = numbers(50, 3) + torch.tensor([0.0, 5.0, -2.0])
    found, wanted = InputStats.of(x, 1).shared(), InputStats.of(x.reshape(-1, 1), 1)
    for name in ("mean", "deviation", "low", "high"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-5, rtol=1e-5)


def test_the_grid_reaches_from_end_to_end_and_holds_zero() -> None:
    zeros = torch.zeros(3)
    found = InputStats(zeros, zeros + 1, torch.tensor([-1.0, 0.5, -3.0]), torch.tensor([2.0, 0.7, -1.0])).grid(10)
    assert found.shape == (10, 3)
    assert found[0].tolist() == [-1.0, 0.5, -3.0]
    torch.testing.assert_close(found[-1], torch.tensor([2.0, 0.7, -1.0]))
    assert [bool((column == 0).any()) for column in found.T] == [True, False, False], "only where it lies between"
    assert bool((found.diff(dim=0) > 0).all())


@pytest.mark.parametrize(("dims", "axis"), [(2, 1), (2, -1), (3, 1), (3, -1), (4, 1), (4, -1), (5, -4), (2, 0), (4, 0)])
def test_rows_go_through_a_function_on_tensors_such_as_were_seen(dims: int, axis: int) -> None:
    shapes: list[tuple[int, ...]] = []

    def function(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x * torch.tensor([1.0, 2.0, 3.0]).reshape([3 if place == axis % dims else 1 for place in range(dims)])

    rows, ones = torch.randn(7, 3), torch.ones(3)
    through = InputStats(ones, ones, -ones, ones, dims, axis).through(function)
    assert torch.equal(through(rows), rows * torch.tensor([1.0, 2.0, 3.0]))
    assert len(shapes[0]) == dims and shapes[0][axis] == 3


# -- beginning exactly ------------------------------------------------------------------------------------------------


def old_function(name: str, channels: int | None) -> nn.Module:
    """A function as in a trained network."""
    if name == "leaky_relu":
        return nn.LeakyReLU(0.17)
    return activations.build(name) if name in PLAIN else made(name, channels)


EXACT = [(row.name, old) for row in ROWS for old in row.begins]


def test_the_pairs_that_begin_exactly() -> None:
    assert len(EXACT) == len(set(EXACT)) == 24
    for pair in [("prelu", "relu"), ("frelu", "prelu"), ("pwlu", "leaky_relu"), ("npwlu", "relu"), ("swish", "silu")]:
        assert pair in EXACT


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("new", "old"), EXACT)
def test_beginning_exactly(new: str, old: str, shared: bool, axis: int) -> None:
    channels = None if shared else CHANNELS
    what, function = seen(), old_function(old, channels)
    module = activations.build(new, channels, axis=axis, **(LEARNED[new] if new == old else {}))
    assert start(module, function, what) <= 1e-5
    x = what.low + (what.high - what.low) * torch.rand(500, CHANNELS)
    torch.testing.assert_close(module(x), function(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(LEARNED) - {"affine", "rescu"}))
@pytest.mark.parametrize(("mine", "theirs"), [(3, None), (None, 3)])
def test_beginning_as_one_of_its_kind_with_other_channels(name: str, mine: int | None, theirs: int | None) -> None:
    """A shared parameter replaces one per channel, and vice versa."""
    module, function = activations.build(name, mine, **LEARNED[name]), made(name, theirs)
    far = start(module, function, seen())
    if mine is not None:
        assert far <= 1e-5
        assert all(param.shape[-1] == 3 and bool((param == param[..., :1]).all()) for param in module.parameters())
    else:
        assert far < 1.0, "about their mean"


def test_beginning_as_one_of_its_kind_with_other_knots() -> None:
    coarse = activations.build("pwlu", CHANNELS, intervals=4)
    with torch.no_grad():
        coarse.heights.add_(0.3)
    assert start(activations.build("pwlu", CHANNELS, intervals=16), coarse, seen()) < 0.2
    assert start(activations.build("pwlu", CHANNELS, intervals=4), coarse, seen()) == 0


def test_what_was_seen_on_planes_is_met_on_planes() -> None:
    function, module = nn.PReLU(CHANNELS), activations.build("frelu", CHANNELS)
    with torch.no_grad():
        function.weight.copy_(torch.tensor([0.1, -0.2, 0.3]))
    assert start(module, function, seen(4)) <= 1e-6
    assert module.negative.tolist() == function.weight.tolist()


# -- beginning as near as it gets -------------------------------------------------------------------------------------

FITTING = [row.name for row in ROWS if row.fits]
OTHERS = ("gelu", "silu", "relu", "elu", "hardswish")
FITTED = [(new, old) for new in FITTING for old in OTHERS if (new, old) not in EXACT]


def largest(module: nn.Module, function: nn.Module, what: InputStats) -> float:
    """The largest difference over a finer grid than that of `start`, value by value."""
    worst = 0.0
    for channel in range(CHANNELS):
        x = torch.zeros(4096, CHANNELS)
        x[:, channel] = torch.linspace(what.low[channel].item(), what.high[channel].item(), 4096)
        with torch.no_grad():
            worst = max(worst, float((module(x) - function(x))[:, channel].abs().max()))
    return worst


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("new", "old"), FITTED)
def test_the_difference_is_as_reported(new: str, old: str, shared: bool) -> None:
    what, function = seen(), old_function(old, CHANNELS)
    module = activations.build(new, None if shared else CHANNELS)
    before, own = largest(module, function, what), start(copy.deepcopy(module), function, what, own=True)
    assert own == pytest.approx(before, rel=0.02, abs=1e-3)
    far = start(module, function, what)
    assert far == pytest.approx(largest(module, function, what), rel=0.02, abs=1e-3)
    if new in ("prelu", "frelu"):
        there = -torch.ones(1, CHANNELS)
        torch.testing.assert_close(module(there), function(there))
    else:
        assert far <= own + 0.05, "what it fits is no further away than what it would begin as"


def test_what_is_reached() -> None:
    assert sorted(FITTING) == ["frelu", "gsmelu", "npwlu", "prelu", "pwlu", "smelu", "swish"]
    what = seen()
    assert start(activations.build("pwlu", CHANNELS), nn.GELU(), what) < 0.025
    assert start(activations.build("swish", CHANNELS), nn.GELU(), what) < 0.03
    assert start(activations.build("smelu", CHANNELS), nn.ReLU(), what) <= 0.0126  # a quarter of the least beta
    assert start(activations.build("gsmelu", CHANNELS), nn.ReLU(), what) <= 0.0126


def test_gsmelu_takes_the_lines_of_what_it_replaces() -> None:
    module = activations.build("gsmelu", CHANNELS)
    assert start(module, nn.LeakyReLU(0.25), seen()) < 0.0126
    torch.testing.assert_close(module.low_slope.detach(), torch.full((CHANNELS,), 0.25))
    torch.testing.assert_close(module.high_slope.detach(), torch.ones(CHANNELS))
    other = made("smelu", CHANNELS)
    assert start(activations.build("gsmelu", CHANNELS), other, seen()) < 0.02


# -- its own beginning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_its_own_beginning_changes_nothing(name: str) -> None:
    module = activations.build(name, CHANNELS)
    before = copy.deepcopy(module.state_dict())
    far = start(module, nn.GELU(), seen(), own=True)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert far == pytest.approx(largest(module, nn.GELU(), seen()), rel=0.02, abs=1e-3)


def test_who_can_begin_as_another() -> None:
    able = {name for name in LEARNED if isinstance(activations.build(name), Starting)}
    assert able == {row.name for row in ROWS if row.fits} | {"rescu"}, "a rescu is built from its lines instead"
    function = nn.PReLU(CHANNELS)
    start(activations.build("frelu", CHANNELS), function, seen())
    assert function.weight.tolist() == [0.25] * CHANNELS and function.weight.grad is None


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.starts and row.role != "linear"])
def test_a_parameter_that_says_how_to_begin_wins(name: str) -> None:
    row = activations.row_of(name)
    assert set(row.starts) <= set(activations.parameters(name))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    option = {row.starts[0]: 0.4375}
    edited, _ = surgery.transform(model, surgery.swap(name, **option), picture())
    wanted = activations.build(name, 4, **option)
    for (key, got), other in zip(edited[1].named_parameters(), wanted.parameters(), strict=True):
        assert torch.equal(got, other), key
    faithful, _ = surgery.transform(model, surgery.swap(name), picture())
    x = torch.randn(2, 4, 3, 3)
    if "relu" in row.begins:
        assert torch.equal(faithful[1](x), F.relu(x)) and not torch.equal(edited[1](x), F.relu(x))
