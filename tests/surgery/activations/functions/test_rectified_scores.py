"""ReLU as the classification function, in both readings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations.functions.rectified_scores import RectifiedScores
from surgery.errors import BadValue
from tests.asserts import assert_raises

FLOOR = 1e-7


def keras(scores: Tensor, targets: Tensor) -> Tensor:
    """Categorical cross-entropy of a rectified output, by hand, example by example."""
    losses = []
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        rectified = [max(0.0, score) for score in row]
        shares = [min(max(number / sum(rectified), FLOOR), 1 - FLOOR) for number in rectified]
        losses.append(-sum(y * math.log(share) for y, share in zip(target, shares, strict=True)))
    return torch.tensor(losses, dtype=scores.dtype).mean()


@pytest.fixture
def scores() -> Tensor:
    """Eight rows of five scores, each with some on either side of zero."""
    drawn = torch.randn(8, 5, dtype=torch.float64)
    drawn[:, 0], drawn[:, 1] = 0.5 + drawn[:, 0].abs(), -0.5 - drawn[:, 1].abs()
    return drawn


def test_scores_under_cross_entropy(scores: Tensor) -> None:
    targets = torch.arange(8) % 5
    seen = RectifiedScores()(scores)
    assert torch.equal(seen, scores.clamp_min(0))
    by_hand = [
        math.log(sum(math.exp(max(0.0, score)) for score in row)) - max(0.0, row[target])
        for row, target in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    assert math.isclose(F.cross_entropy(seen, targets), sum(by_hand) / 8, rel_tol=1e-12)


@pytest.mark.parametrize("kind", ["classes", "smooth"])
def test_shares_are_keras_loss(scores: Tensor, kind: str) -> None:
    classes = torch.arange(8) % 5
    hot = F.one_hot(classes, 5).double()
    targets = hot if kind == "classes" else 0.9 * hot + 0.02
    shares = RectifiedScores("shares")(scores)
    reference = keras(scores, targets)
    # The row is brought back to 1 after the floor: up to 5 floors in the sum, so much in its logarithm.
    assert math.isclose(F.cross_entropy(shares, targets), reference, abs_tol=5 * FLOOR)
    assert math.isclose(-(targets * shares).sum(1).mean(), F.cross_entropy(shares, targets), rel_tol=1e-12)
    if kind == "classes":
        assert math.isclose(F.nll_loss(shares, classes), F.cross_entropy(shares, classes), rel_tol=1e-12)


def test_shares_sum_to_one(scores: Tensor) -> None:
    shares = RectifiedScores("shares")(scores).exp()
    assert torch.allclose(shares.sum(1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-14)
    positive = scores.clamp_min(0)
    assert torch.allclose(shares, positive / positive.sum(1, keepdim=True), rtol=0, atol=5 * FLOOR)
    assert math.isclose(shares.min(), FLOOR, rel_tol=1e-5)


@pytest.mark.parametrize("reading", ["scores", "shares"])
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12, unique=True).filter(lambda row: max(row) > 0))
def test_the_prediction_is_that_of_the_scores(reading: str, row: list[int]) -> None:
    scores = torch.tensor(row) / 100
    assert RectifiedScores(reading)(scores).argmax() == scores.argmax()


@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_a_dead_class_gets_no_gradient(reading: str) -> None:
    scores = torch.tensor([[2.0, -1.0, 1.0]], requires_grad=True)
    F.cross_entropy(RectifiedScores(reading)(scores), torch.tensor([1])).backward()
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    if reading == "scores":
        assert (scores.grad[0, [0, 2]] > 0).all(), "the others are pushed down"
    else:
        assert scores.grad.abs().max() < 1e-6


@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_a_dead_row_is_a_uniform_guess(reading: str) -> None:
    scores = torch.tensor([[-2.0, -1.0, 0.0, -3.0]], requires_grad=True)
    loss = F.cross_entropy(RectifiedScores(reading)(scores), torch.tensor([1]))
    loss.backward()
    assert math.isclose(loss.item(), math.log(4), rel_tol=1e-6)
    assert scores.grad is not None and not scores.grad.any()


def test_shares_know_no_scale(scores: Tensor) -> None:
    module = RectifiedScores("shares")
    assert torch.allclose(module(scores), module(scores * 1000), rtol=1e-12)


@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_gradients(reading: str, scores: Tensor) -> None:
    apart = torch.where(scores.abs() < 0.05, 0.3, scores).requires_grad_()
    assert torch.autograd.gradcheck(RectifiedScores(reading), apart)
    assert torch.autograd.gradgradcheck(RectifiedScores(reading), apart)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_half_types(reading: str, dtype: torch.dtype, scores: Tensor) -> None:
    half = scores.to(dtype)
    seen = RectifiedScores(reading)(half)
    assert seen.dtype == dtype
    assert torch.equal(seen, RectifiedScores(reading)(half.float()).to(dtype)), "not in float32 inside"


def test_under_autocast() -> None:
    model = nn.Sequential(nn.Linear(4, 3), RectifiedScores("shares"))
    with torch.autocast("cpu", torch.bfloat16):
        seen = model(torch.rand(2, 4))
    assert seen.dtype == torch.bfloat16
    assert torch.isfinite(seen).all()


@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_classes_on_another_axis(reading: str) -> None:
    maps = torch.randn(2, 5, 3, 3)
    there = RectifiedScores(reading, axis=1)(maps)
    last = RectifiedScores(reading)(maps.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(there, last)
    assert RectifiedScores(reading)(torch.empty(0, 5)).shape == (0, 5)


def test_nothing_is_hidden() -> None:
    odd = torch.tensor([[math.nan, 1.0, 2.0]])
    assert RectifiedScores()(odd).isnan().tolist() == [[True, False, False]]
    assert RectifiedScores("shares")(odd).isnan().all(), "as softmax does"


def test_arguments() -> None:
    assert_raises(BadValue, lambda: RectifiedScores("probabilities"), "reading='probabilities'", "'shares'")
    assert_raises(BadValue, lambda: RectifiedScores("shares", floor=0.0), "floor=0.0")
    assert_raises(BadValue, lambda: RectifiedScores("shares", floor=math.nan), "floor=nan")
    assert repr(RectifiedScores("shares", axis=1)) == "RectifiedScores(reading='shares', axis=1)"
