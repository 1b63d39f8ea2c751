"""Cut exactly the requested number of lowest scores; ties are broken by position."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.masks.cut import candidates_of, check_share, count_of, cut_lowest
from pruning.masks.masks import Masks
from surgery.errors import BadValue
from tests.asserts import assert_raises

SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3)
FEW = st.sampled_from([0.0, -1.0, 0.5, 2.0, float("inf"), float("-inf")])


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Masks, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Masks, scores with many equal ones, and which weights may be cut."""
    parts: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for place, shape in enumerate(draw(SHAPES)):
        size = math.prod(shape)
        for part, values in zip(parts, (st.booleans(), FEW, st.booleans()), strict=True):
            drawn = draw(st.lists(values, min_size=size, max_size=size))
            part[f"layer{place}"] = torch.tensor(drawn).view(shape)
    return Masks(parts[0]), parts[1], parts[2]


def slow_cut(masks: Masks, scores: dict[str, torch.Tensor], count: int, among: dict[str, torch.Tensor]) -> Masks:
    """Sort everything that may be cut by score and place, and take the first."""
    places = [
        (float(scores[name][at]), order, at)
        for order, (name, mask) in enumerate(masks.items())
        for at in [tuple(place) for place in mask.nonzero().tolist()]
        if among[name][at]
    ]
    kept = [mask.clone() for mask in masks.values()]
    for _, order, at in sorted(places)[:count]:
        kept[order][at] = False
    return Masks(dict(zip(masks, kept, strict=True)))


@given(cuts(), st.data())
def test_it_is_the_slow_one(
    drawn: tuple[Masks, dict[str, torch.Tensor], dict[str, torch.Tensor]], data: st.DataObject
) -> None:
    masks, scores, among = drawn
    count = data.draw(st.integers(0, candidates_of(masks, among).alive))
    found = cut_lowest(masks, scores, count, among)
    assert found == slow_cut(masks, scores, count, among)
    assert masks.alive - found.alive == count
    everywhere = {name: torch.ones_like(mask) for name, mask in masks.items()}
    assert cut_lowest(masks, scores, count) == slow_cut(masks, scores, count, everywhere)


@given(cuts(), st.integers(1, 5))
def test_too_many_is_an_error_that_changes_nothing(
    drawn: tuple[Masks, dict[str, torch.Tensor], dict[str, torch.Tensor]], more: int
) -> None:
    masks, scores, among = drawn
    before = {name: mask.clone() for name, mask in masks.items()}
    there = candidates_of(masks, among).alive
    assert_raises(
        BadValue, lambda: cut_lowest(masks, scores, there + more, among), f"{there + more} weights", f"{there} that"
    )
    assert masks == before


def test_the_given_masks_stay_as_they_are() -> None:
    masks = Masks({"a": torch.ones(2, 2, dtype=torch.bool)})
    found = cut_lowest(masks, {"a": torch.arange(4.0).view(2, 2)}, 2)
    assert found["a"].tolist() == [[False, False], [True, True]]
    assert masks.alive == 4


def test_ties_go_by_position_over_tensors() -> None:
    masks = Masks({name: torch.ones(1, 3, dtype=torch.bool) for name in ("b", "a")})
    found = cut_lowest(masks, {"a": torch.ones(1, 3), "b": torch.ones(1, 3)}, 4)
    assert {name: number.tolist() for name, number in found.items()} == {"b": [[False] * 3], "a": [[False, True, True]]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    """Neighbours of 1 differ; with another tensor in single precision too."""
    step = torch.finfo(dtype).eps
    masks = Masks({"a": torch.ones(1, 2, dtype=torch.bool), "b": torch.ones(1, 1, dtype=torch.bool)})
    scores = {"a": torch.tensor([[1 + step, 1.0]], dtype=dtype), "b": torch.tensor([[3.0]])}
    assert cut_lowest(masks, scores, 1)["a"].tolist() == [[True, False]]


def test_a_living_weight_needs_a_number() -> None:
    masks = Masks({"a": torch.tensor([[True, False, True]])})
    assert_raises(BadValue, lambda: cut_lowest(masks, {"a": torch.tensor([[math.nan, 0.0, 1.0]])}, 1), "a", "NaN")
    assert cut_lowest(masks, {"a": torch.tensor([[0.0, math.nan, 1.0]])}, 1)["a"].tolist() == [[False, False, True]]
    among = {"a": torch.tensor([[False, True, True]])}
    found = cut_lowest(masks, {"a": torch.tensor([[math.nan, 0.0, 1.0]])}, 1, among)
    assert found["a"].tolist() == [[True, False, False]]


@given(st.integers(0, 10**7), st.integers(0, 100), st.integers(1, 100))
def test_a_share_is_the_whole_number_at_or_below(alive: int, above: int, below: int) -> None:
    share = Fraction(min(above, below), below)
    assert count_of(float(share), alive) == math.floor(share * alive)


@given(st.integers(0, 10**8), st.data())
def test_a_count_given_as_a_share_comes_back(alive: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, alive))
    assert count_of(count / max(alive, 1), alive) == count


@pytest.mark.parametrize("share", [0, 1, 0.0, 0.3, 1.0])
def test_a_share(share: float) -> None:
    check_share("share", share)
    assert 0 <= count_of(share, 10) <= 10


@pytest.mark.parametrize("share", [-0.1, 1.0001, 2, math.nan, math.inf, True, "0.5", None, [0.5]], ids=repr)
def test_no_share(share: object) -> None:
    assert_raises(BadValue, lambda: check_share("ap_share", share), "ap_share", repr(share))  # type: ignore[arg-type]
