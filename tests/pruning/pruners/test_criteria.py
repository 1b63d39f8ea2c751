"""Criteria, against values by hand and against slow implementations."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.masks.masks import Masks
from pruning.pruners import criteria as scores
from pruning.rounds.round import Round, snapshot, wants_of
from surgery.errors import BadValue
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched

CRITERIA = {
    "magnitude": scores.magnitude,
    "gradient": scores.gradient,
    "snip": scores.snip,
    "lamp": scores.lamp,
    "lookahead": scores.lookahead,
    "movement": scores.movement,
    "accumulated_movement": scores.accumulated_movement,
    "random": scores.Random(),
}


def layers(*weights: list[list[float]]) -> nn.Sequential:
    """Linear layers of these weights, named 0, 1, ..."""
    made = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data.copy_(torch.tensor(rows))
        made.append(layer)
    return nn.Sequential(*made)


def round_of(model: nn.Module, masks: Masks | None = None, **tensors: dict[str, Tensor]) -> Round:
    return Round.of(model, snapshot(model), masks, **tensors)


def alike(found: Tensor, *rows: list[float]) -> bool:
    return torch.allclose(found.double(), torch.tensor(rows).double(), atol=0, rtol=1e-6)


def everything(model: nn.Module) -> Round:
    noise = {name: torch.randn_like(mask, dtype=torch.float32) for name, mask in Masks.full(model).items()}
    before = {name: value + noise[name] for name, value in snapshot(model).items()}
    return Round.of(model, before, gradients=noise, movement=noise)


def test_magnitude() -> None:
    found = scores.magnitude(round_of(layers([[1.0, -2.0], [0.5, -0.25]])))
    assert list(found) == ["0.weight"]
    assert torch.equal(found["0.weight"], torch.tensor([[1.0, 2.0], [0.5, 0.25]]))


def test_gradient() -> None:
    round = round_of(layers([[1.0, -2.0], [0.5, -0.25]]), gradients={"0.weight": torch.tensor([[3.0, 1], [-4, 0]])})
    assert torch.equal(scores.gradient(round)["0.weight"], torch.tensor([[3.0, 2], [2, 0]]))


def test_gradient_is_what_autograd_says() -> None:
    """|w g| is the size of the slope of the loss along switching the weight off."""
    model = layers([[1.0, -2.0], [0.5, -0.25]])
    x = torch.tensor([[1.0, 2.0]])
    switch = torch.ones(2, 2, requires_grad=True)
    (x @ (model[0].weight * switch).T).square().sum().backward()
    gradient = model[0].weight.grad
    assert gradient is not None and switch.grad is not None
    found = scores.gradient(round_of(model, gradients={"0.weight": gradient}))
    assert torch.allclose(found["0.weight"], switch.grad.abs())


def test_snip_is_a_share_of_all_living_weights() -> None:
    model = layers([[1.0, -2.0]], [[4.0], [0.0]])
    gradients = {"0.weight": torch.tensor([[3.0, 1.0]]), "1.weight": torch.tensor([[-0.75], [7.0]])}
    found = scores.snip(round_of(model, gradients=gradients))  # |w g|: 3, 2 and 3; the zero does not live
    assert alike(found["0.weight"], [3 / 8, 2 / 8])
    assert alike(found["1.weight"][:1], [3 / 8])
    masks = Masks({"0.weight": torch.tensor([[False, True]]), "1.weight": torch.tensor([[True], [False]])})
    found = scores.snip(round_of(model, masks, gradients=gradients))
    assert alike(found["0.weight"][:, 1:], [2 / 5]) and alike(found["1.weight"][:1], [3 / 5])


def test_snip_without_any_slope_has_no_nan() -> None:
    found = scores.snip(round_of(layers([[1.0, -2.0]]), gradients={"0.weight": torch.zeros(1, 2)}))
    assert torch.equal(found["0.weight"], torch.zeros(1, 2))


def test_lamp() -> None:
    found = scores.lamp(round_of(layers([[1.0, -2.0], [3.0, -0.5]], [[5.0, 0.1]])))
    assert alike(found["0.weight"], [1 / 14, 4 / 13], [1, 0.25 / 14.25])
    assert alike(found["1.weight"], [1, 0.01 / 25.01])


def test_lamp_of_equal_weights_goes_by_position() -> None:
    found = scores.lamp(round_of(layers([[2.0, -2.0, 2.0]])))
    assert alike(found["0.weight"], [1 / 3, 1 / 2, 1])


def test_lamp_counts_living_weights_only() -> None:
    masks = Masks({"0.weight": torch.tensor([[True, True, False]])})
    found = scores.lamp(round_of(layers([[1.0, 2.0, 100.0]]), masks))
    assert alike(found["0.weight"], [1 / 5, 1, 0])


def test_lamp_of_zeros_that_live() -> None:
    masks = Masks({"0.weight": torch.ones(1, 2, dtype=torch.bool)})
    assert torch.equal(scores.lamp(round_of(layers([[0.0, 0.0]]), masks))["0.weight"], torch.zeros(1, 2).double())


def slow_lamp(weight: list[float], kept: list[bool]) -> list[float]:
    """Compare all pairs: which weights are larger, or equal at a later position."""
    found = []
    for place, number in enumerate(weight):
        larger = [
            other for at, other in enumerate(weight)
            if kept[at] and (abs(other) > abs(number) or (abs(other) == abs(number) and at >= place))
        ]  # fmt: skip
        found.append(number * number / sum(other * other for other in larger) if kept[place] else 0.0)
    return found


@given(st.lists(st.tuples(st.sampled_from([-2.0, -1.0, 0.25, 0.5, 1.0, 3.0]), st.booleans()), min_size=1, max_size=12))
def test_lamp_is_the_slow_one(row: list[tuple[float, bool]]) -> None:
    weight, flags = [number for number, _ in row], [kept for _, kept in row]
    found = scores.lamp(round_of(layers([weight]), Masks({"0.weight": torch.tensor([flags])})))
    assert alike(found["0.weight"], slow_lamp(weight, flags))


def test_lookahead() -> None:
    model = layers([[3.0, 0.0], [4.0, 1.0]], [[1.0, 2.0], [-2.0, 1.0]], [[2.0, 5.0]])
    found = scores.lookahead(round_of(model))
    made = [3, math.sqrt(17)]  # rows of the first layer
    assert alike(found["1.weight"], [1 * made[0] * 2, 2 * made[1] * 2], [2 * made[0] * 5, 1 * made[1] * 5])
    assert alike(found["0.weight"], [3 * math.sqrt(5), 0], [4 * math.sqrt(5), math.sqrt(5)])  # columns of the second
    assert alike(found["2.weight"], [2 * math.sqrt(5), 5 * math.sqrt(5)])


def test_lookahead_sees_masked_neighbours_as_zero() -> None:
    model = layers([[3.0, 7.0], [4.0, 1.0]], [[1.0, 2.0]])
    masks = Masks({"0.weight": torch.tensor([[True, False], [True, True]]), "1.weight": torch.tensor([[True, True]])})
    assert alike(scores.lookahead(round_of(model, masks))["1.weight"], [3, 2 * math.sqrt(17)])


def test_lookahead_leaves_out_neighbours_that_do_not_match() -> None:
    model = nn.ModuleList([nn.Linear(2, 3), nn.Linear(2, 4)])
    found = scores.lookahead(round_of(model))
    assert_bit_equal(found.values(), [tensor.double() for tensor in scores.magnitude(round_of(model)).values()])


def test_lookahead_asks_neighbours_that_may_not_be_pruned() -> None:
    model = layers([[3.0], [4.0]], [[1.0, 2.0]])
    masks = Masks({"1.weight": torch.ones(1, 2, dtype=torch.bool)})
    round = Round.of(model, snapshot(model), masks)
    assert alike(scores.lookahead(round)["1.weight"], [3, 8])


def slow_lookahead(model: nn.Sequential) -> list[Tensor]:
    """Every weight by itself: of a convolution (grouped, transposed or not), a batch norm behind each or None."""
    pairs = [
        (layer, model[place + 1])
        for place, layer in enumerate(model)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    edges = [list(edges_of(layer)) for layer, _ in pairs]
    found = []
    for place, (layer, norm) in enumerate(pairs):
        result = torch.zeros_like(layer.weight).double()
        for at, into, out, value in edges[place]:
            score = abs(value) * scale_of(norm, out)
            if place > 0:
                made = sum(other**2 for _, _, end, other in edges[place - 1] if end == into)
                score *= math.sqrt(made) * scale_of(pairs[place - 1][1], into)
            if place + 1 < len(pairs):
                score *= math.sqrt(sum(other**2 for _, start, _, other in edges[place + 1] if start == out))
            result[at] = score
        found.append(result)
    return found


def edges_of(layer: nn.Module):  # type: ignore[no-untyped-def]
    """Position, input channel, output channel and value of each weight, found by running one channel at a time."""
    weight = layer.weight.detach().clone()
    for at in [tuple(place) for place in torch.ones_like(weight).nonzero().tolist()]:
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[at] = 1.0
            for into in range(layer.in_channels):
                x = torch.zeros(1, layer.in_channels, 5, 5)
                x[0, into] = 1.0
                for out in layer(x)[0].abs().sum((1, 2)).nonzero().flatten().tolist():
                    yield at, into, out, float(weight[at])
            layer.weight.copy_(weight)


def scale_of(norm: nn.Module, channel: int) -> float:
    if not isinstance(norm, nn.BatchNorm2d):
        return 1.0
    return abs(float(norm.weight.detach()[channel])) / math.sqrt(float(norm.running_var[channel]) + norm.eps)


def test_lookahead_is_the_slow_one_with_groups_and_batch_norm() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, groups=4, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6, eps=0.1),
        nn.Conv2d(6, 2, 1, bias=False), nn.ReLU(),
    )  # fmt: skip
    for norm in [layer for layer in model if isinstance(layer, nn.BatchNorm2d)]:
        norm.weight.data.uniform_(-2, 2)
        norm.running_var.uniform_(0.1, 3)
    expected = slow_lookahead(model)
    found = scores.lookahead(round_of(model))
    for value, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(value, other, rtol=1e-6, atol=0)


def test_lookahead_through_a_flatten() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
    model[2].weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    found = scores.lookahead(round_of(model))
    assert alike(found["2.weight"], [3, 6, 15, 20])
    assert alike(found["0.weight"].flatten(1), [3 * math.sqrt(5)], [25.0])


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2)])
def test_lookahead_leaves_out_norms_without_statistics(norm: nn.Module) -> None:
    model = layers([[3.0], [4.0]], [[1.0, 2.0]])
    norm.weight.data.fill_(7.0)
    assert_bit_equal(
        scores.lookahead(round_of(nn.Sequential(model[0], norm, model[1]))).values(),
        scores.lookahead(round_of(model)).values(),
    )


def test_movement() -> None:
    model = layers([[1.0, -2.0, 0.5, -0.5]])
    before = {"0.weight": torch.tensor([[0.5, -3.0, 0.5, 0.25]])}
    found = scores.movement(Round.of(model, before))
    # Grew; shrank; stayed; went through zero, away from it.
    assert torch.equal(found["0.weight"], torch.tensor([[0.5, -2.0, 0.0, 0.375]]))


def test_movement_of_what_did_not_move_is_refused() -> None:
    model = layers([[1.0, -2.0]], [[3.0], [4.0]], [[5.0, 6.0]])
    masks = Masks.full(model)
    still = snapshot(model)
    assert_raises(BadValue, lambda: scores.movement(Round.of(model, still)), "weight has moved", "train_first=True")
    some = {**still, "0.weight": still["0.weight"] + 1, "2.weight": still["2.weight"] + 1}
    assert_raises(BadValue, lambda: scores.movement(Round.of(model, some)), "1.weight has not moved", "keep=")
    # A tensor without unpruned weights cannot move; pruned weights do not count.
    dead = Masks({**masks, "1.weight": torch.zeros(2, 1, dtype=torch.bool)})
    assert list(scores.movement(Round.of(model, some, dead))) == list(masks)
    pruned = Masks({**masks, "1.weight": torch.tensor([[True], [False]])})
    some["1.weight"] = torch.tensor([[3.0], [9.0]])
    assert_raises(BadValue, lambda: scores.movement(Round.of(model, some, pruned)), "1.weight has not moved")
    nothing = Masks({name: torch.zeros_like(value) for name, value in masks.items()})
    assert list(scores.movement(Round.of(model, still, nothing))) == list(masks)


def test_accumulated_movement_is_what_was_gathered() -> None:
    movement = {"0.weight": torch.tensor([[0.5, -1.0]])}
    found = scores.accumulated_movement(round_of(layers([[1.0, 2.0]]), movement=movement))
    assert torch.equal(found["0.weight"], movement["0.weight"])


def test_random_is_the_same_for_the_same_seed() -> None:
    round = round_of(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)))
    state = torch.get_rng_state()
    first, again, other = (scores.Random(seed)(round) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert_bit_equal(first.values(), again.values())
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert not torch.equal(first["0.weight"].flatten(), first["1.weight"].flatten())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        assert_bit_equal(first.values(), scores.Random(3)(round).values())


@pytest.mark.gpu
def test_random_is_the_same_on_a_gpu() -> None:
    model = nn.Linear(4, 8)
    there = scores.Random(1)(round_of(model))["weight"]
    found = scores.Random(1)(round_of(model.cuda()))["weight"]
    assert found.is_cuda and torch.equal(found.cpu(), there)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_is_pure_and_scores_every_weight(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 2)
    )
    round = everything(model)
    with assert_untouched(model):
        found = CRITERIA[name](round)
        assert_bit_equal(found.values(), CRITERIA[name](round).values())
    assert list(found) == list(round.masks)
    for key, score in found.items():
        assert score.shape == round.masks[key].shape and score.is_floating_point() and not score.requires_grad


@pytest.mark.parametrize("name", CRITERIA)
def test_half_precision_is_not_lost(name: str) -> None:
    """Squares and products of numbers that fit in half precision, while their squares do not."""
    model = layers([[1e-4, 2e-4]], [[1e-4], [3e-4]]).half()
    small = {key: torch.full_like(mask, 1e-4, dtype=torch.half) for key, mask in Masks.full(model).items()}
    round = Round.of(model, {key: 2 * value for key, value in snapshot(model).items()}, gradients=small, movement=small)
    for score in CRITERIA[name](round).values():
        assert bool((score != 0).all())


def test_wants() -> None:
    wants = {name: sorted(wants_of(value)) for name, value in CRITERIA.items()}
    assert {name: value for name, value in wants.items() if value} == {
        "gradient": ["gradients"],
        "snip": ["gradients"],
        "accumulated_movement": ["movement"],
    }


@pytest.mark.parametrize("name", ["gradient", "snip", "accumulated_movement"])
def test_what_is_wanted_and_missing_is_named(name: str) -> None:
    model = layers([[1.0, 2.0]], [[1.0]])
    (want,) = wants_of(CRITERIA[name])
    assert_raises(
        BadValue,
        lambda: CRITERIA[name](round_of(model)),
        f"needs {want}",
        f"no {want}",
        "run_rounds(",
        f"{want}={{...}}",
    )
    tensors = {"0.weight": torch.ones(1, 2)}
    assert_raises(BadValue, lambda: CRITERIA[name](round_of(model, **{want: tensors})), "no 1.weight")
    tensors["1.weight"] = torch.ones(2, 2)
    assert_raises(BadValue, lambda: CRITERIA[name](round_of(model, **{want: tensors})), "1.weight", "(2, 2)")
