"""Pruners: exact fractions, constraints, several rounds, and torch's own pruning as a reference."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.masks.cut import count_of
from pruning.masks.masks import Masks
from pruning.pruners import criteria as scores
from pruning.pruners import pruners
from pruning.pruners.pruners import Lowest, lowest, n_of_m
from pruning.rounds.round import Round, Scores, snapshot, wants_of
from surgery.errors import BadValue
from tests.asserts import assert_raises, assert_untouched

FACTORIES: dict[str, Callable[..., Lowest]] = {
    "global_magnitude": pruners.global_magnitude,
    "layer_magnitude": pruners.layer_magnitude,
    "global_gradient": pruners.global_gradient,
    "snip": pruners.snip,
    "lamp": pruners.lamp,
    "lookahead": pruners.lookahead,
    "movement": pruners.movement,
    "accumulated_movement": pruners.accumulated_movement,
    "random_weights": pruners.random_weights,
}
FEW = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    )


def round_of(model: nn.Module, masks: Masks | None = None) -> Round:
    numbers = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(mask.shape, generator=numbers) for name, mask in Masks.full(model).items()}
    before = {name: value + 0.1 * noise[name] for name, value in snapshot(model).items()}
    return Round.of(model, before, masks, gradients=noise, movement=noise)


def linear(*weights: Tensor) -> nn.Sequential:
    made = [nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights]
    for layer, weight in zip(made, weights, strict=True):
        layer.weight.data.copy_(weight)
    return nn.Sequential(*made)


@st.composite
def models(draw: st.DrawFn) -> nn.Sequential:
    """One to four linear layers with many equal weights, none of them zero."""
    weights = []
    for _ in range(draw(st.integers(1, 4))):
        rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
        values = draw(st.lists(st.sampled_from(FEW), min_size=rows * columns, max_size=rows * columns))
        weights.append(torch.tensor(values).view(rows, columns))
    return linear(*weights)


def cut_of(before: Masks, after: Masks) -> list[int]:
    assert list(before) == list(after)
    assert not any(bool((after[name] & ~before[name]).any()) for name in before), "a weight came back to life"
    return [int(before[name].sum() - after[name].sum()) for name in before]


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("share", [0, 0.1, 0.37, 1])
def test_exactly_the_share_is_cut_and_the_model_stays(name: str, share: float) -> None:
    model = convnet()
    round = round_of(model)
    with assert_untouched(model):
        masks = FACTORIES[name]()(round, share)
    assert sum(cut_of(round.masks, masks)) == count_of(share, round.masks.alive)
    assert FACTORIES[name]()(round, share) == masks


@pytest.mark.parametrize("name", FACTORIES)
def test_the_lowest_are_cut_round_after_round(name: str) -> None:
    """No remaining weight has a lower score than a cut one, among those that compete."""
    model, pruner = convnet(), FACTORIES[name]()
    masks = Masks.full(model)
    for _ in range(4):
        round = round_of(model, masks)
        found, after = pruner.criterion(round), pruner(round, 0.3)
        assert sum(cut_of(masks, after)) == count_of(0.3, masks.alive)
        kept = {mask: found[mask][after[mask]] for mask in masks}
        lost = {mask: found[mask][masks[mask] & ~after[mask]] for mask in masks}
        if pruner.per == "model":
            assert torch.cat(list(lost.values())).max() <= torch.cat(list(kept.values())).min()
        else:
            assert all(lost[mask].max() <= kept[mask].min() for mask in masks)
        masks = after
        masks.lay_over(model)


@given(models(), st.floats(0, 1))
def test_counts_over_the_model_are_exact_with_ties(model: nn.Sequential, share: float) -> None:
    round = round_of(model)
    masks = pruners.global_magnitude()(round, share)
    assert round.masks.alive - masks.alive == count_of(share, round.masks.alive)


@given(models(), st.floats(0, 1))
def test_counts_per_layer_are_exact_with_ties(model: nn.Sequential, share: float) -> None:
    round = round_of(model)
    masks = pruners.layer_magnitude()(round, share)
    counts, alive = cut_of(round.masks, masks), [int(mask.sum()) for mask in round.masks.values()]
    assert sum(counts) == count_of(share, sum(alive))
    assert all(
        math.floor(share * number) <= count <= math.ceil(share * number)
        for number, count in zip(alive, counts, strict=True)
    )


def test_the_rest_goes_to_the_largest_remainders() -> None:
    model = linear(*[torch.rand(1, columns) + 0.1 for columns in (5, 3, 9, 5, 4)])
    # A quarter: 1.25, 0.75, 2.25, 1.25, 1 of 26: 6.5. Whole parts 1, 0, 2, 1, 1; one more for the second.
    round = round_of(model)
    assert cut_of(round.masks, pruners.layer_magnitude()(round, 0.25)) == [1, 1, 2, 1, 1]
    # A half: 2.5, 1.5, 4.5, 2.5, 2 of 26: 13. Whole parts 2, 1, 4, 2, 2; one more for the first two of equal ones.
    assert cut_of(round.masks, pruners.layer_magnitude()(round, 0.5)) == [3, 2, 4, 2, 2]


def test_the_rest_goes_where_something_may_be_cut() -> None:
    def one_of_the_first(found: Scores, masks: Masks) -> dict[str, Tensor]:
        return {"0.weight": torch.tensor([[True, False, False]]), "1.weight": masks["1.weight"]}

    round = round_of(linear(torch.ones(1, 3), torch.ones(1, 3)))
    assert cut_of(round.masks, pruners.layer_magnitude()(round, 0.5)) == [2, 1]
    pruner = pruners.layer_magnitude(within=one_of_the_first)
    assert cut_of(round.masks, pruner(round, 0.5)) == [1, 2]
    assert_raises(BadValue, lambda: pruner(round, 0.7), "2 of 0.weight", "1 of 0.weight")


def test_a_share_that_binary_numbers_miss() -> None:
    """0.29 x 100 is a little less than 29 in floating point."""
    round = round_of(linear(torch.rand(10, 10) + 0.1, torch.rand(10, 10) + 0.1))
    assert cut_of(round.masks, pruners.layer_magnitude()(round, 0.29)) == [29, 29]
    tiny = round_of(linear(*[torch.rand(1, 3) + 0.1] * 20))
    found = pruners.layer_magnitude()(tiny, 0.3333333)
    assert sum(cut_of(tiny.masks, found)) == count_of(0.3333333, 60) == 19


def test_by_hand_over_the_model_and_per_layer() -> None:
    model = linear(torch.tensor([[4.0, -1.0], [3.0, 5.0]]), torch.tensor([[0.5, -0.25]]))
    over_all, each = pruners.global_magnitude()(round_of(model), 0.5), pruners.layer_magnitude()(round_of(model), 0.5)
    assert {name: number.tolist() for name, number in over_all.items()} == {
        "0.weight": [[True, False], [True, True]],
        "1.weight": [[False, False]],
    }
    assert {name: number.tolist() for name, number in each.items()} == {
        "0.weight": [[True, False], [False, True]],
        "1.weight": [[True, False]],
    }


@pytest.mark.parametrize("count", [0, 1, 17, 100, 200])
def test_global_magnitude_is_that_of_torch(count: int) -> None:
    model = convnet()
    round = round_of(model)
    ours = pruners.global_magnitude()(round, count / round.masks.alive)
    places = [(model[place], "weight") for place in (0, 3, 6)]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=count)  # type: ignore[arg-type]
    assert ours == {f"{place}.weight": model[place].weight_mask.bool() for place in (0, 3, 6)}


@pytest.mark.parametrize("count", [0, 1, 40, 79])
def test_layer_magnitude_is_that_of_torch(count: int) -> None:
    layer = nn.Linear(16, 5)
    ours = pruners.layer_magnitude()(round_of(layer), count / 80)
    prune.l1_unstructured(layer, "weight", amount=count)
    assert torch.equal(ours["weight"], layer.weight_mask.bool())  # type: ignore[operator]


def test_rounds_are_those_of_torch() -> None:
    model, other = convnet(), convnet()
    other.load_state_dict(model.state_dict())
    places = [(other[place], "weight") for place in (0, 3, 6)]
    masks = Masks.full(model)
    for count in (50, 30, 20):
        masks = pruners.global_magnitude()(round_of(model, masks), count / masks.alive)
        prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=count)  # type: ignore[arg-type]
    assert masks == {f"{place}.weight": other[place].weight_mask.bool() for place in (0, 3, 6)}


def test_snip_cuts_as_the_gradient_does() -> None:
    round = round_of(convnet())
    assert pruners.snip()(round, 0.4) == pruners.global_gradient()(round, 0.4)


def test_random_weights_follow_the_seed() -> None:
    round = round_of(convnet())
    assert pruners.random_weights(3)(round, 0.4) == pruners.random_weights(3)(round, 0.4)
    assert pruners.random_weights(3)(round, 0.4) != pruners.random_weights(4)(round, 0.4)


# Constraints


def groups_of(mask: Tensor, m: int) -> Tensor:
    """The number of unpruned weights in each group of m along axis 1."""
    return torch.stack([part.sum(1) for part in mask.split(m, dim=1)])


def test_two_of_four_by_hand() -> None:
    model = linear(torch.tensor([[0.1, 0.2, 0.3, 0.4, 9.0, 8.0, 7.0, 6.0], [5.0, 5.0, 5.0, 5.0, 1.0, 4.0, 2.0, 4.0]]))
    masks = pruners.global_magnitude(within=n_of_m(2, 4))(round_of(model), 0.5)
    expected = ["00111100", "00110101"]
    assert masks["0.weight"].tolist() == [[sign == "1" for sign in row] for row in expected]


@st.composite
def patterns(draw: st.DrawFn) -> tuple[nn.Sequential, int, int]:
    m = draw(st.sampled_from([2, 4, 8]))
    n = draw(st.integers(1, m))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    values = torch.tensor(FEW)
    weights = [
        values[torch.randint(len(FEW), (draw(st.integers(1, 3)), m * draw(st.integers(1, 3))), generator=numbers)]
        for _ in range(draw(st.integers(1, 3)))
    ]
    return linear(*weights), n, m


@given(patterns(), st.lists(st.floats(0, 0.9), min_size=1, max_size=3), st.sampled_from(["model", "layer"]))
def test_every_group_keeps_its_highest_round_after_round(
    drawn: tuple[nn.Sequential, int, int], shares: list[float], per: str
) -> None:
    model, n, m = drawn
    pruner = lowest(scores.magnitude, per=per, within=n_of_m(n, m))
    masks = Masks.full(model)
    for share in shares:
        round = round_of(model, masks)
        try:
            after = pruner(round, share)
        except BadValue as error:
            assert "too few weights to cut" in str(error)
            room = {name: int((groups_of(mask, m) - n).clamp(min=0).sum()) for name, mask in masks.items()}
            short = per == "layer" and any(
                math.floor(share * int(mask.sum())) >= room[name] for name, mask in masks.items()
            )
            assert short or count_of(share, masks.alive) > sum(room.values())
            return
        assert sum(cut_of(masks, after)) == count_of(share, masks.alive)
        for name, mask in after.items():
            assert int(groups_of(mask, m).min()) >= n
            for kept, old, score in zip(
                *[tensor.split(m, 1) for tensor in (mask, masks[name], model_weight(model, name))], strict=True
            ):
                highest = score.abs().masked_fill(~old, -1).sort(dim=1, descending=True).values[:, :n]
                left = score.abs().masked_fill(~kept, -1).sort(dim=1, descending=True).values[:, :n]
                assert torch.equal(highest, left)
        masks = after


def model_weight(model: nn.Sequential, name: str) -> Tensor:
    return model.get_parameter(name).detach()


@given(patterns(), st.sampled_from(sorted(FACTORIES)))
def test_the_full_share_gives_the_pattern_exactly(drawn: tuple[nn.Sequential, int, int], name: str) -> None:
    model, n, m = drawn
    masks = FACTORIES[name](within=n_of_m(n, m))(round_of(model), (m - n) / m)
    assert all(bool((groups_of(mask, m) == n).all()) for mask in masks.values())


def test_the_pattern_lies_along_the_inputs_of_a_convolution_and_is_reached_in_rounds() -> None:
    model = nn.Sequential(nn.Conv2d(8, 3, 3), nn.Conv1d(4, 2, 5), nn.Linear(4, 3))
    masks = Masks.full(model)
    pruner = pruners.lamp(within=n_of_m())
    for share in (0.2, 0.2, 38 / 172):  # 268, 215, 172, 134
        masks = pruner(round_of(model, masks), share)
        assert all(int(groups_of(mask, 4).min()) >= 2 for mask in masks.values())
    assert all(bool((groups_of(mask, 4) == 2).all()) for mask in masks.values())
    assert_raises(BadValue, lambda: pruner(round_of(model, masks), 0.1), "too few", "0 that may be cut")


def test_layers_without_whole_groups_are_left_alone_or_free() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    round = round_of(model)
    masks = pruners.global_magnitude(within=n_of_m(2, 4))(round, 16 / round.masks.alive)
    assert cut_of(round.masks, masks) == [0, 0, 16]
    assert_raises(BadValue, lambda: pruners.global_magnitude(within=n_of_m(2, 4))(round, 0.5), "16 that may be cut")
    assert_raises(
        BadValue,
        lambda: pruners.layer_magnitude(within=n_of_m(2, 4))(round, 0.5),
        "108 of 0.weight",
        "0 of 0.weight",
        "keep",
    )
    free = pruners.layer_magnitude(within=n_of_m(2, 4, elsewhere="cut"))(round, 0.5)
    assert cut_of(round.masks, free) == [108, 36, 16]
    assert bool((groups_of(free["2.weight"], 4) == 2).all())


OTHER_PATTERN, LEFT_OUT, SMALLER, OVER_ALL = 'elsewhere="cut"', "keep=", "a smaller share", 'per="model"'


@pytest.mark.parametrize(
    ("per", "widths", "share", "helps"),
    [
        ("model", [3, 8], 0.5, {OTHER_PATTERN, LEFT_OUT, SMALLER}),
        ("layer", [3, 8], 0.5, {OTHER_PATTERN, LEFT_OUT}),  # any smaller one is too much for the first
        ("model", [8, 8], 0.7, {SMALLER}),
        ("layer", [8, 8], 0.7, {SMALLER}),
        ("model", [3, 8], 0.7, {SMALLER}),  # without the first there is too little left too
        ("model", [30, 8], 0.7, {OTHER_PATTERN, SMALLER}),
        ("layer", [3, 80], 0.4, {OTHER_PATTERN, LEFT_OUT, OVER_ALL}),
        ("model", [3, 5], 0.5, {OTHER_PATTERN}),  # nothing else is there
    ],
)
def test_what_is_named_where_too_few_may_be_cut_does_help(
    per: str, widths: list[int], share: float, helps: set[str]
) -> None:
    model = linear(*[torch.rand(4, width) + 0.1 for width in widths])

    def cut(per: str = per, share: float = share, keep: bool = False, **options: str) -> Masks:
        round = Round.of(model, snapshot(model), keep=(lambda name, _: name != "0.weight") if keep else None)
        return lowest(scores.magnitude, per=per, within=n_of_m(2, 4, **options))(round, share)

    error = assert_raises(BadValue, cut, "too few weights to cut")
    assert {hint for hint in (OTHER_PATTERN, LEFT_OUT, SMALLER, OVER_ALL) if hint in str(error)} == helps
    ways = {
        OTHER_PATTERN: lambda: cut(elsewhere="cut"),
        LEFT_OUT: lambda: cut(keep=True),
        OVER_ALL: lambda: cut(per="model"),
    }
    for name, way in ways.items():
        if name in helps:
            assert way().alive
        elif len(set(widths)) > 1 and widths != [3, 5] and name != OVER_ALL:
            assert_raises(BadValue, way, "too few")


def test_living_weights_stay_before_dead_ones_whatever_they_score() -> None:
    model = linear(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    masks = Masks({"0.weight": torch.tensor([[True, True, False, True]])})
    bottom = lowest(lambda round: {"0.weight": torch.full((1, 4), -math.inf)}, within=n_of_m(2, 4))
    assert bottom(round_of(model, masks), 1 / 3)["0.weight"].tolist() == [[False, True, False, True]]
    assert_raises(BadValue, lambda: bottom(round_of(model, masks), 2 / 3), "1 that may be cut")


def test_any_constraint_will_do() -> None:
    def first_column(found: Scores, masks: Masks) -> dict[str, Tensor]:
        return {name: torch.arange(mask.shape[1]).expand(mask.shape) == 0 for name, mask in masks.items()}

    model = linear(torch.tensor([[4.0, 1.0], [3.0, 2.0]]))
    masks = pruners.global_magnitude(within=first_column)(round_of(model), 0.25)
    assert masks["0.weight"].tolist() == [[True, True], [False, True]]
    assert repr(pruners.global_magnitude(within=first_column)) == "lowest(magnitude, per='model', within=first_column)"


# Nouns and refusals


def test_wants_and_names() -> None:
    assert {name: sorted(wants_of(made())) for name, made in FACTORIES.items() if wants_of(made())} == {
        "global_gradient": ["gradients"],
        "snip": ["gradients"],
        "accumulated_movement": ["movement"],
    }
    assert repr(pruners.lookahead()) == "lowest(lookahead, per='layer')"
    assert (
        repr(pruners.random_weights(3, within=n_of_m())) == "lowest(Random(seed=3), per='model', within=n_of_m(2, 4))"
    )
    assert repr(n_of_m(1, 4, elsewhere="cut")) == "n_of_m(1, 4, elsewhere='cut')"
    assert pruners.snip() == pruners.snip() and pruners.snip() != pruners.lamp()


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, "a", True])
def test_a_share_outside_is_refused(name: str, share: float) -> None:
    round = round_of(convnet())
    assert_raises(BadValue, lambda: FACTORIES[name]()(round, share), f"share={share!r}")


@pytest.mark.parametrize("name", ["global_gradient", "snip", "accumulated_movement"])
def test_what_the_criterion_wants_is_named(name: str) -> None:
    model = convnet()
    assert_raises(BadValue, lambda: FACTORIES[name]()(Round.of(model, snapshot(model)), 0.1), "needs", "Round.of")


@pytest.mark.parametrize("per", ["model", "layer"])
@pytest.mark.parametrize("within", [None, n_of_m(2, 4)], ids=["anywhere", "2 of 4"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_scores_that_are_no_numbers_are_refused(per: str, within: pruners.Constraint | None, share: float) -> None:
    model = linear(torch.ones(2, 4), torch.ones(1, 4))

    def broken(round: Round) -> Scores:
        found = {name: now.clone() for name, now in round.now.items()}
        found["1.weight"][0, 0] = math.nan
        return found

    pruner = lowest(broken, per=per, within=within)
    assert_raises(BadValue, lambda: pruner(round_of(model), share), "1.weight", "NaN")
    dead = Masks(
        {"0.weight": torch.ones(2, 4, dtype=torch.bool), "1.weight": torch.tensor([[False, True, True, True]])}
    )
    assert pruner(round_of(model, dead), 0).alive == 11


def test_scores_and_constraints_of_something_else_are_refused() -> None:
    round = round_of(linear(torch.ones(2, 4)))
    assert_raises(BadValue, lambda: lowest(lambda round: {})(round, 0.5), "0.weight", "no 0.weight")
    assert_raises(BadValue, lambda: lowest(lambda round: {"0.weight": torch.ones(4)})(round, 0.5), "(2, 4)", "(4,)")
    for wrong in ({}, {"0.weight": torch.ones(2, 4)}, {"0.weight": torch.ones(4, dtype=torch.bool)}):
        pruner = pruners.global_magnitude(within=lambda found, masks, wrong=wrong: wrong)  # type: ignore[misc]
        assert_raises(BadValue, lambda pruner=pruner: pruner(round, 0.5), "constraint", "0.weight", "boolean")


def test_arguments_out_of_range_are_refused() -> None:
    assert_raises(BadValue, lambda: lowest(scores.magnitude, per="channel"), "per='channel'", "model or layer")
    assert_raises(BadValue, lambda: lowest("magnitude"), "criterion='magnitude'")  # type: ignore[arg-type]
    assert_raises(BadValue, lambda: lowest(None), "criterion=None")  # type: ignore[arg-type]
    assert_raises(BadValue, lambda: pruners.snip(within=(2, 4)), "within=(2, 4)")  # type: ignore[arg-type]
    for n, m in ((0, 4), (5, 4), (2.0, 4), (2, 4.0), (True, 4), (-1, 4), (1, True)):
        assert_raises(BadValue, lambda n=n, m=m: n_of_m(n, m), f"n={n!r}, m={m!r}")
    assert_raises(BadValue, lambda: n_of_m(2, 4, elsewhere="free"), "elsewhere='free'", "keep or cut")
