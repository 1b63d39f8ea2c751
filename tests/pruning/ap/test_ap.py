"""AP with a base pruner, against a slow implementation of its description; its counts, words and errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from pruning.ap.ap import in_stages, shared_counts, with_ap
from pruning.dead.meter import DeadNeuronMeter
from pruning.masks.cut import count_of
from pruning.masks.masks import Masks
from pruning.pruners.pruners import global_gradient, global_magnitude, layer_magnitude, n_of_m
from pruning.rounds.round import Round, snapshot, wants_of
from pruning.rounds.rounds import run_rounds
from recipes.models import build as models
from surgery.errors import BadValue
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.ap.by_hand import BEFORE, NOW, by_hand, cut_places, magnitude, nothing, vgg_with_norms


def resnet20() -> tuple[nn.Module, tuple[int, ...]]:
    return models.build("cifar/resnet20"), (4, 3, 32, 32)


def vit() -> tuple[nn.Module, tuple[int, ...]]:
    model = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )
    nn.init.normal_(model.heads[0].weight)  # zeros, as it comes, teach nothing below
    return model, (4, 3, 16, 16)


def train(model: nn.Module, shape: tuple[int, ...], masks: Masks, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    with masks.held(model, optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(shape)), torch.arange(len(torch.empty(shape)))).backward()
            optimizer.step()


# The specification, slowly: over lists, and sorted. Nothing is shared with the library.


def slow_lowest(masks: dict[str, list[bool]], entries: list[tuple[float, int, str, int]], count: int) -> None:
    assert len(entries) >= count
    for _, _, name, place in sorted(entries)[:count]:
        masks[name][place] = False


def slow_lite(
    before: dict[str, Tensor], now: dict[str, Tensor], masks: Masks, share: float, ap_share: float
) -> dict[str, list[bool]]:
    """The masks after a cut by magnitude, and AP's cut of the unpruned negative weights that moved least."""
    lists = {name: mask.flatten().tolist() for name, mask in masks.items()}
    alive = sum(sum(row) for row in lists.values())
    total, ap = int(share * alive + 1e-6), int(ap_share * alive + 1e-6)
    sizes = {name: abs(weight.numpy()).ravel().tolist() for name, weight in now.items()}
    moved = {name: abs(now[name].numpy() - before[name].numpy()).ravel().tolist() for name in now}
    sign = {name: weight.flatten().tolist() for name, weight in now.items()}
    order = {name: place for place, name in enumerate(lists)}
    host = [
        (sizes[name][place], order[name], name, place)
        for name, value in lists.items()
        for place, lives in enumerate(value)
        if lives
    ]
    slow_lowest(lists, host, total - ap)
    still = [
        (moved[name][place], order[name], name, place)
        for name, value in lists.items()
        for place, lives in enumerate(value)
        if lives and sign[name][place] < 0
    ]
    slow_lowest(lists, still, ap)
    return lists


@pytest.mark.slow
@pytest.mark.parametrize("build", [resnet20, vgg_with_norms, vit], ids=lambda build: build.__name__)
def test_two_rounds_agree_weight_for_weight_with_the_specification(build) -> None:
    model, shape = build()
    masks = Masks.full(model)
    pruner = with_ap(magnitude, ap_share=0.05)
    for _ in range(2):
        before = snapshot(model)
        train(model, shape, masks)
        round = Round.of(model, before, masks)
        expected = slow_lite(dict(round.before), dict(round.now), masks, 0.4, 0.05)
        found = pruner(round, 0.4)
        assert found.alive == masks.alive - int(0.4 * masks.alive)
        assert {name: mask.flatten().tolist() for name, mask in found.items()} == expected
        assert found != magnitude(round, 0.4)
        masks = found
        masks.lay_over(model)


def test_the_host_goes_first_and_ap_takes_from_what_is_left() -> None:
    round = by_hand([0.0] * 8, [-1.0, -2.0, -3.0, -4.0, 5.0, 6.0, 7.0, 8.0])
    assert cut_places(round, with_ap(magnitude, 0.25)(round, 0.5)) == [0, 1, 2, 3]
    assert cut_places(round, with_ap(magnitude, 0.25, "positive")(round, 0.5)) == [0, 1, 4, 5]


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1, width=32), min_size=10, max_size=40), st.floats(0, 0.5))
def test_by_magnitude_in_two_steps_is_by_magnitude_in_one(weights: list[float], ap_share: float) -> None:
    round = by_hand([0.0] * len(weights), weights)
    assert with_ap(magnitude, ap_share, "any", "magnitude")(round, 0.5) == magnitude(round, 0.5)


# Patterns


@pytest.mark.parametrize("by", ["still", "magnitude", "random"])
@pytest.mark.parametrize("among", ["negative", "any"])
@pytest.mark.parametrize("nested", [False, True], ids=["once", "twice"])
def test_a_pattern_of_the_host_holds_with_ap(by, among, nested) -> None:
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))
    before = {name: value + torch.randn_like(value) for name, value in snapshot(model).items()}
    host = layer_magnitude(within=n_of_m(2, 4))
    host = with_ap(host, 0.02, by="magnitude") if nested else host
    share = 0.3
    masks = with_ap(host, 0.1, among, by)(Round.of(model, before), share)
    assert masks.alive == 288 - int(share * 288)
    for mask in masks.values():
        assert int(mask.unflatten(1, (-1, 4)).sum(-1).min()) >= 2
    first, last = in_stages(host, 0.1, among, by).stages(288, share)
    masks = last(Round.of(model, before, first(Round.of(model, before))))
    assert masks.alive == 288 - int(share * 288)
    assert min(int(mask.unflatten(1, (-1, 4)).sum(-1).min()) for mask in masks.values()) >= 2


def test_a_pattern_that_lets_too_few_go_is_a_shortfall() -> None:
    round = by_hand([0.0] * 8, [-1.0, -2.0, -3.0, -4.0, 5.0, 6.0, 7.0, 8.0])
    pruner = with_ap(global_magnitude(within=n_of_m(2, 4)), 3 / 8)
    assert_raises(BadValue, lambda: pruner(round, 3 / 8), "3 unpruned negative", "2 of them")
    # The pattern lets go what AP may cut, not the positive weights that moved less.
    mixed = by_hand([-9.0, -9.0, 1.0, 2.0], [-1.0, -2.0, 1.0, 2.0])
    assert cut_places(mixed, with_ap(global_magnitude(within=n_of_m(2, 4)), 0.5)(mixed, 0.5)) == [0, 1]


# Counts


@given(st.integers(0, 10**8), st.floats(0, 1), st.floats(0, 1))
def test_host_and_ap_are_the_total(alive: int, share: float, part: float) -> None:
    host, ap = shared_counts(alive, share, part * share)
    assert host + ap == count_of(share, alive) and host >= 0 and ap >= 0
    if alive:
        assert count_of(min(host / alive, 1.0), alive) == host  # its share gives its count again


@given(st.integers(0, 100), st.integers(0, 100))
def test_whole_percents_are_exact(share: int, ap_share: int) -> None:
    share, ap_share = max(share, ap_share), min(share, ap_share)
    assert shared_counts(10_000, share / 100, ap_share / 100) == (100 * (share - ap_share), 100 * ap_share)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["still", "magnitude", "random"]), st.integers(0, 99))
def test_exactly_so_many_are_cut(share: float, part: float, by, seed: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    before, now = torch.randn(2, 60, generator=numbers).tolist()
    round = by_hand(before, now, dead=tuple(range(seed % 60)))
    alive = round.masks.alive
    masks = with_ap(magnitude, part * share, "any", by)(round, share)
    assert masks.alive == alive - count_of(share, alive)
    assert (masks & round.masks) == masks  # no weight is revived
    before_ap = magnitude(round, shared_counts(alive, share, part * share)[0] / alive)
    assert (masks & before_ap) == masks


def test_a_round_without_living_weights() -> None:
    round = by_hand([0.0, 0.0], [0.0, 0.0], dead=(0, 1))
    assert with_ap(magnitude, 0.1)(round, 0.5) == round.masks


# Shortfall


def test_a_shortfall_is_refused_with_the_numbers() -> None:
    round = by_hand(BEFORE, NOW)
    with assert_untouched(round.model):
        assert_raises(BadValue, lambda: with_ap(nothing, 5 / 8)(round, 5 / 8), "5 unpruned negative", "4 of them")


def test_a_shortfall_goes_back_to_the_host() -> None:
    round = by_hand(BEFORE, NOW)
    asked = []

    def host(round: Round, share: float) -> Masks:
        asked.append(count_of(share, round.masks.alive))
        return magnitude(round, share)

    masks = with_ap(host, 6 / 8, shortfall="host")(round, 7 / 8)
    # The host cuts the 0 at place 5; AP all four negative weights; the host two of the smallest that are left.
    assert asked == [1, 2] and cut_places(round, masks) == [0, 1, 2, 3, 5, 6, 7]


def test_no_shortfall_does_not_ask_the_host_again() -> None:
    round, asked = by_hand(BEFORE, NOW), []
    with_ap(lambda round, share: (asked.append(share), round.masks)[1], 0.5, shortfall="host")(round, 0.5)
    assert asked == [0.0]


# Stages


def test_the_stages_are_the_host_and_then_ap_with_training_between() -> None:
    model, shape = vgg_with_norms()
    masks, before = Masks.full(model), snapshot(model)
    train(model, shape, masks)
    alive = masks.alive
    host_cut, ap_cut = in_stages(magnitude, 0.05).stages(alive, 0.3)

    first = host_cut(Round.of(model, before, masks))
    assert alive - first.alive == count_of(0.3, alive) - count_of(0.05, alive)
    assert first == magnitude(Round.of(model, before, masks), (alive - first.alive) / alive)
    train(model, shape, first)
    second = ap_cut(Round.of(model, before, first))
    assert first.alive - second.alive == count_of(0.05, alive)  # of those unpruned when the round began
    cut = {name: first[name] & ~second[name] for name in first}
    now = Round.of(model, before, first).now
    assert all(bool((now[name][value] < 0).all()) for name, value in cut.items())
    moved = torch.cat([(now[name] - before[name]).abs()[value] for name, value in cut.items()])
    left = torch.cat([(now[name] - before[name]).abs()[(now[name] < 0) & second[name]] for name in cut])
    assert moved.max() <= left.min()


def test_stages_hand_a_shortfall_to_the_host() -> None:
    round = by_hand(BEFORE, NOW)
    *_, refuses = in_stages(magnitude, 5 / 8).stages(8, 6 / 8)
    *_, hands = in_stages(magnitude, 5 / 8, shortfall="host").stages(8, 6 / 8)
    assert_raises(BadValue, lambda: refuses(round), "4 of them")
    assert hands(round).alive == 3


def test_stages_called_at_once_name_run_rounds() -> None:
    round = by_hand(BEFORE, NOW)
    assert_raises(BadValue, lambda: in_stages(magnitude, 0.1)(round, 0.2), "cannot train", "run_rounds", "with_ap")


@pytest.mark.parametrize("make", [with_ap, in_stages])
def test_rounds_with_ap_cut_what_the_host_alone_would(make) -> None:
    model, shape = vgg_with_norms()
    trained = []

    def run(model: nn.Module, held) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        with held(optimizer):
            nn.functional.cross_entropy(model(torch.randn(shape)), torch.arange(4)).backward()
            optimizer.step()
        trained.append(Masks.of(model).alive)

    full = Masks.full(model).alive
    masks = run_rounds(model, run, make(global_magnitude(), 0.05), share=0.3, rounds=2)
    once = full - int(0.3 * full)
    assert masks.alive == once - int(0.3 * once)
    host = full - (int(0.3 * full) - int(0.05 * full))
    host_again = once - (int(0.3 * once) - int(0.05 * once))
    stages = [full, host, once, host_again, masks.alive]
    assert trained == (stages if make is in_stages else [full, once, masks.alive])


# Wants, words and refusals


class Gradient:
    wants = frozenset({"gradients"})

    def __call__(self, round: Round, share: float) -> Masks:
        assert set(round.gradients) == set(round.masks)
        return magnitude(round, share)

    def __repr__(self) -> str:
        return "gradient()"


def test_the_host_gets_what_it_wants() -> None:
    round = by_hand(BEFORE, NOW)
    round = replace(round, gradients={"weight": torch.ones(1, 8)})
    assert wants_of(with_ap(Gradient(), 0.1)) == wants_of(in_stages(Gradient(), 0.1)) == {"gradients"}
    assert wants_of(with_ap(magnitude, 0.1)) == frozenset()
    assert with_ap(Gradient(), 0.25)(round, 0.5).alive == 4
    assert with_ap(global_gradient(), 0.25)(round, 0.5).alive == 4
    assert repr(with_ap(global_gradient(), 0.25)).startswith(f"with_ap({global_gradient()!r}, ap_share=0.25")


def test_they_say_what_they_are() -> None:
    assert repr(with_ap(magnitude, 0.02)) == "with_ap(magnitude, ap_share=0.02, among='negative', by='still')"
    assert repr(in_stages(Gradient(), 0.1, "any", "random", seed=2, shortfall="host")) == (
        "in_stages(gradient(), ap_share=0.1, among='any', by='random', seed=2, shortfall='host')"
    )
    dead = with_ap(magnitude, 0.02, by="dead", batches=[torch.zeros(100, 3)])
    assert repr(dead) == "with_ap(magnitude, ap_share=0.02, among='negative', by='dead')"
    meter = DeadNeuronMeter(nn.Linear(3, 3), inputs=True)
    in_training = with_ap(magnitude, 0.02, by="dead", meter=meter)
    assert repr(in_training) == "with_ap(magnitude, ap_share=0.02, among='negative', by='dead', meter=DeadNeuronMeter)"


def test_ap_beside_ap() -> None:
    round = by_hand([0.0] * 8, [-1.0, -2.0, -3.0, -4.0, 5.0, 6.0, 7.0, 8.0])
    pruner = with_ap(with_ap(magnitude, 1 / 8), 2 / 8, "positive")
    assert cut_places(round, pruner(round, 4 / 8)) == [0, 1, 4, 5]


@pytest.mark.parametrize("make", [with_ap, in_stages])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ap_share": -0.1}, ["ap_share=-0.1"]),
        ({"ap_share": 1.5}, ["ap_share=1.5"]),
        ({"ap_share": float("nan")}, ["ap_share=nan"]),
        ({"ap_share": True}, ["ap_share=True"]),
        ({"among": "red"}, ["among='red'", "negative, positive, any"]),
        ({"by": "speed"}, ["by='speed'", "still, dead, magnitude, random"]),
        ({"shortfall": "shrug"}, ["shortfall='shrug'", "error, host"]),
        ({"by": "dead"}, ["no batches", "batches=loader"]),
        ({"by": "dead", "batches": iter([])}, ["read once"]),
        ({"by": "dead", "batches": torch.zeros(2, 3)}, ["one batch"]),
        ({"seed": 0.5}, ["seed=0.5"]),
        ({"pruner": "magnitude"}, ["not a pruner", "'magnitude'"]),
        ({"pruner": in_stages(magnitude, 0.1)}, ["single cut", "in_stages(magnitude"]),
        ({"pruner": global_magnitude}, ["(round, share)", "global_magnitude", "within"]),
        ({"pruner": lambda round: round.masks}, ["(round, share)", "(round)"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(make, arguments, words) -> None:
    assert_raises(BadValue, lambda: make(**{"pruner": magnitude, "ap_share": 0.1} | arguments), *words)


def test_shares_are_checked_before_the_host_is_called() -> None:
    round = by_hand(BEFORE, NOW)

    def never(round: Round, share: float) -> Masks:
        raise AssertionError("the host was called")

    for share, word in ((0.1, "ap_share=0.2"), (1.5, "share=1.5"), (-1, "share=-1")):
        assert_raises(BadValue, lambda share=share: with_ap(never, 0.2)(round, share), word)
        assert_raises(BadValue, lambda share=share: in_stages(never, 0.2).stages(8, share), word)
    assert_raises(BadValue, lambda: with_ap(never, 1.0)(round, 0.99), "ap_share=1.0")


def test_a_snapshot_that_is_no_number_is_refused() -> None:
    round = by_hand([float("nan"), 1.0], [-1.0, -2.0])
    assert_raises(BadValue, lambda: with_ap(nothing, 0.5)(round, 0.5), "NaN")
