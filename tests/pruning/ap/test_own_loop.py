"""AP in a training loop that already prunes: two lines, with plain weights and with torch.nn.utils.prune."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.ap.own_loop import ActivateWhilePruning
from pruning.dead.meter import DeadNeuronMeter
from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 12), nn.ReLU(),
        nn.Linear(12, 4),
    )  # fmt: skip


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3, 5, 5)), torch.arange(8) % 4).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights as the layers use them."""
    return {name: model.get_submodule(name[: -len(".weight")]).weight.detach().clone() for name in prunable(model)}


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight == 0 for name, weight in weights(model).items()}


def count(tensors: Iterable[Tensor]) -> int:
    return sum(int(tensor.sum()) for tensor in tensors)


def slow_cut(before: dict[str, Tensor], now: dict[str, Tensor], many: int) -> set[tuple[str, int]]:
    """Names and positions of the unpruned negative weights that moved least."""
    moved = [
        (abs(new - old), place, name, index)
        for place, name in enumerate(now)
        for index, (new, old) in enumerate(zip(now[name].numpy().ravel(), before[name].numpy().ravel(), strict=True))
        if new < 0
    ]
    return {(name, index) for _, _, name, index in sorted(moved)[:many]}


def new_zeros(before: dict[str, Tensor], model: nn.Module) -> set[tuple[str, int]]:
    return {
        (name, index)
        for name, weight in weights(model).items()
        for index in ((weight == 0) & (before[name] != 0)).flatten().nonzero().flatten().tolist()
    }


def test_two_lines_on_plain_weights() -> None:
    model = net()
    optimizer, alive = sgd(model), Masks.of(model).alive
    ap = ActivateWhilePruning(model, share=0.1)
    for _ in range(2):
        ap.begin_round()
        began = weights(model)
        with ap.held(optimizer):
            train(model, optimizer)
        now = weights(model)
        masks = ap.step()
        many = int(0.1 * alive)
        assert new_zeros(now, model) == slow_cut(began, now, many)
        assert masks.alive == Masks.of(model).alive == alive - many
        alive = masks.alive
        pruned = zeros(model)
        with ap.held(optimizer):
            train(model, optimizer)
        assert all(torch.equal(pruned[name], value) for name, value in zeros(model).items())


def test_two_lines_beside_torch_prune() -> None:
    model = net()
    optimizer = sgd(model)
    ap = ActivateWhilePruning(model, share=0.05)  # one
    layers = [(module, "weight") for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    for round in range(3):
        began, alive = weights(model), Masks.of(model).alive
        ap.begin_round()  # two
        train(model, optimizer)
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=alive // 4)
        now = weights(model)
        masks = ap.step()  # and three
        many = int(0.05 * alive)
        assert new_zeros(now, model) == slow_cut(began, now, many), round
        assert masks.alive == Masks.of(model).alive == alive - alive // 4 - many
        pruned = zeros(model)
        train(model, optimizer, steps=1)
        model(torch.zeros(2, 3, 5, 5))
        assert all(torch.equal(pruned[name], value) for name, value in zeros(model).items())
        assert all(len(list(layer._forward_pre_hooks)) == 1 for layer, _ in layers)


def test_held_clears_what_the_optimiser_keeps_and_copies() -> None:
    model, average = net(), net()
    optimizer = sgd(model)
    ap = ActivateWhilePruning(model, 0.3)
    ap.begin_round()
    train(model, optimizer)
    masks = ap.step()
    with ap.held(optimizer, also=[average]):
        for name, param in prunable(model).items():
            assert count([optimizer.state[param]["momentum_buffer"][~masks[name]] != 0]) == 0
        assert count(zeros(average).values()) == masks.size - masks.alive


def test_the_count_is_of_the_weights_living_when_the_round_began() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1, "any", "magnitude", masks=Masks.of)
    ap.begin_round()
    began = Masks.of(model).alive
    with torch.no_grad():
        model[4].weight[:6] = 0  # the host's cut
    now = Masks.of(model).alive
    assert now < began and now - ap.step().alive == int(0.1 * began)


def test_what_comes_back_to_life_is_cut_again_on_demand() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1)
    ap.begin_round()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, sgd(model))
    masks = ap.step()
    model.load_state_dict(start)  # a rewind, or a host that makes its masks anew
    assert Masks.of(model).alive > masks.alive
    assert ap.after_host_update() == masks == Masks.of(model)
    # AP's zeros count as pruned when a round begins, also where they have come back.
    model.load_state_dict(start)
    ap.begin_round()
    train(model, sgd(model))
    assert ap.step().alive == masks.alive - int(0.1 * masks.alive)


def test_only_aps_cuts_of_all_rounds_are_laid_again() -> None:
    model = net()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ap = ActivateWhilePruning(model, 0.1, "any", "magnitude", masks=Masks.of)
    ap.begin_round()
    with torch.no_grad():
        model[4].weight[:6] = 0  # the host's, which may come back
    ap.step()
    ap.begin_round()
    last = ap.step()
    model.load_state_dict(start)
    expected = {name: mask.clone() for name, mask in last.items()}
    expected["4.weight"][:6] = True
    optimizer = sgd(model)
    with ap.held(optimizer):  # sets what AP has cut to zero, also before the host is done
        assert Masks.of(model) == expected
    model.load_state_dict(start)
    assert ap.after_host_update() == expected == Masks.of(model)


def test_after_host_update_without_a_cut_changes_nothing() -> None:
    model = net()
    with assert_untouched(model):
        assert ActivateWhilePruning(model, 0.1).after_host_update() == Masks.full(model)


def test_a_host_that_drops_its_masks_keeps_aps() -> None:
    model = net()
    layers = [(module, "weight") for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer, name in layers:
        prune.identity(layer, name)
    ap = ActivateWhilePruning(model, 0.2)
    ap.begin_round()
    train(model, sgd(model))
    masks = ap.step()
    for layer, _ in layers:
        layer.weight_mask.fill_(1)  # as a scheduler that starts from the raw weights does
    assert ap.after_host_update() == masks == Masks.of(model)


def test_keep_and_the_choice_are_handed_on() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.2, "positive", "random", seed=1, keep=lambda name, module: name == "4.weight")
    ap.begin_round()
    before = weights(model)
    masks = ap.step()
    assert list(masks) == ["4.weight"]
    cut = new_zeros(before, model)
    assert len(cut) == int(0.2 * masks.size)
    assert all(name == "4.weight" and before[name].flatten()[index] > 0 for name, index in cut)


def test_units_that_are_dead_on_batches() -> None:
    model = net()
    with torch.no_grad():
        model[4].bias[:3] = -100.0
    batches = [torch.randn(8, 3, 5, 5)]
    ap = ActivateWhilePruning(model, 0.02, by="dead", batches=batches)
    ap.begin_round()
    before = weights(model)
    ap.step()
    cut = new_zeros(before, model)
    assert len(cut) == int(0.02 * (162 + 648 + 48))
    assert all(name == "4.weight" and index < 3 * 54 and before[name].flatten()[index] < 0 for name, index in cut)


def test_units_that_were_dead_in_the_last_training() -> None:
    model = net()
    meter = DeadNeuronMeter(model, every=1, inputs=True)
    ap = ActivateWhilePruning(model, 0.02, by="dead", meter=meter)
    for shift in (-100.0, 100.0):
        with torch.no_grad():
            model[4].bias[:3] = shift
        ap.begin_round()
        before = weights(model)
        meter.reset()
        with meter:
            model.train()(torch.randn(8, 3, 5, 5))
        if shift < 0:
            ap.step()
            cut = new_zeros(before, model)
            assert len(cut) == 17 and all(name == "4.weight" and index < 3 * 54 for name, index in cut)
        else:
            assert_raises(BadValue, ap.step, "too few")


# Zero is not pruned


def test_a_head_that_begins_at_zero_learns() -> None:
    model = net()
    nn.init.zeros_(model[6].weight)
    ap = ActivateWhilePruning(model, 0.1)
    ap.begin_round()
    with ap.held(optimizer := sgd(model)):
        train(model, optimizer)
        assert bool(model[6].weight.all())
    assert ap.step().alive == 858 - int(0.1 * 858), "zeros counted as unpruned when the round began"


def test_a_host_that_lays_no_mask_over_a_head_of_zeros_lets_it_learn() -> None:
    model = net()
    nn.init.zeros_(model[6].weight)
    prune.l1_unstructured(model[4], "weight", amount=100)
    ap = ActivateWhilePruning(model, 0.1)
    with ap.held(optimizer := sgd(model)):
        train(model, optimizer)
    assert bool(model[6].weight.all()) and count([~Masks.of(model)["4.weight"]]) == 100


@pytest.mark.parametrize("of", [lambda masks: masks, lambda masks: lambda model: masks, lambda masks: Masks.of])
def test_a_network_that_was_pruned_before_stays_pruned_by_its_masks(of) -> None:
    model = net()
    kept = Masks.of(net())
    kept["4.weight"][:, ::2] = False
    kept.lay_over(model)
    ap = ActivateWhilePruning(model, 0.1, masks=of(kept))
    ap.begin_round()
    with ap.held(optimizer := sgd(model)):
        train(model, optimizer)
        assert not bool(model[4].weight[:, ::2].any())
    assert kept.alive == 858 - 324 and ap.step().alive == kept.alive - int(0.1 * kept.alive)
    with ap.held(optimizer):
        train(model, optimizer)
        assert not bool(model[4].weight[:, ::2].any())


def test_masks_name_only_what_is_kept_and_are_of_this_model() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.5, "any", "magnitude", masks=Masks.of, keep=lambda name, _: name == "4.weight")
    ap.begin_round()
    assert list(ap.step()) == ["4.weight"]
    assert_raises(WrongModel, lambda: ActivateWhilePruning(net(), 0.1, masks=Masks.full(nn.Linear(2, 2))), "weight")
    for wrong in ({"4.weight": 1}, lambda model: list(model)):
        assert_raises(BadValue, lambda w=wrong: ActivateWhilePruning(net(), 0.1, masks=w), "must be Masks", "Masks.of")
    for takes_none in (lambda: 3, lambda first, second: first):
        assert_raises(
            BadValue,
            lambda w=takes_none: ActivateWhilePruning(net(), 0.1, masks=w),
            "a function of the model",
            "masks=",
        )


def test_what_ap_cut_stays_cut_when_channels_are_removed() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.3, "any", "magnitude")
    ap.begin_round()
    ap.step()
    left = nn.Linear(54, 8)
    left.weight = nn.Parameter(model[4].weight.detach()[:8].clone())
    cut = left.weight == 0
    model[4], model[6] = left, nn.Linear(8, 4)
    nn.init.zeros_(model[6].weight)  # a new head
    ap.begin_round()
    assert bool(cut.any())
    with ap.held(optimizer := sgd(model)):
        train(model, optimizer)
        assert torch.equal(left.weight == 0, cut) and bool(model[6].weight.all())


def test_zeros_that_somebody_may_have_pruned_are_warned_of() -> None:
    model = net()
    nn.init.zeros_(model[6].weight)  # begins so: nothing is said
    ap = ActivateWhilePruning(model, 0.3, "any", "magnitude")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ap.begin_round()
        ap.step()  # nor of what AP cuts
        ap.begin_round()
    with torch.no_grad():
        model[4].weight[:6] = 0
    for look in (ap.begin_round, lambda: ap.held(sgd(model)).__enter__()):
        with pytest.warns(UserWarning, match=r"unpruned weights of 4.weight are zero.*Masks.of") as caught:
            look()
        assert [warning.filename for warning in caught] == [__file__]


# Refusals


def test_a_step_needs_a_round() -> None:
    model = net()
    with assert_untouched(model):
        assert_raises(BadValue, ActivateWhilePruning(model, 0.1).step, "begin_round()")


def test_a_shortfall_changes_nothing() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.9)
    ap.begin_round()
    train(model, sgd(model))
    with assert_untouched(model):
        assert_raises(BadValue, ap.step, "negative", "of them")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(broken) -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1)
    ap.begin_round()
    model[4].weight.data[0, 0] = broken
    with assert_untouched(model):
        assert_raises(BadValue, ap.step, "4.weight", "not finite")
        assert_raises(BadValue, ap.begin_round, "4.weight", "not finite")


def test_after_structural_changes_a_round_begins_anew() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1)
    ap.begin_round()
    train(model, sgd(model))
    ap.step()
    model[4] = smaller = nn.Linear(54, 10)
    model[6] = nn.Linear(10, 4)
    with assert_untouched(model):
        for call in (ap.step, ap.after_host_update, partial(ap.held, sgd(model))):
            assert_raises(WrongModel, call, "4.weight", "(12, 54)", "(10, 54)", "begin_round() again")
    ap.begin_round()
    alive = Masks.of(model).alive
    assert alive == 162 - count([model[0].weight == 0]) + 540 + 40
    train(model, sgd(model))
    assert alive - ap.step().alive == int(0.1 * alive) and bool((smaller.weight == 0).any())


def test_a_weight_that_is_gone_or_new_needs_a_new_round() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1)
    ap.begin_round()
    model[4] = nn.Sequential(nn.Linear(54, 12))
    assert_raises(WrongModel, ap.step, "4.weight", "no such weight", "begin_round() again")
    model[4] = nn.Linear(54, 12)
    model.append(nn.Linear(4, 4))
    assert_raises(WrongModel, ap.step, "7.weight", "begin_round() again")


@pytest.mark.parametrize(
    ("build", "arguments", "error", "word"),
    [
        (net, {"share": 1.1}, BadValue, "share=1.1"),
        (net, {"share": -0.1}, BadValue, "share=-0.1"),
        (net, {"share": 0.1, "among": "red"}, BadValue, "among='red'"),
        (net, {"share": 0.1, "by": "speed"}, BadValue, "by='speed'"),
        (net, {"share": 0.1, "by": "dead"}, BadValue, "batches"),
        (nn.ReLU, {"share": 0.1}, NothingPicked, "not have prunable weights"),
        (lambda: nn.DataParallel(net()), {"share": 0.1}, CannotLook, ""),
        (lambda: torch.compile(net()), {"share": 0.1}, CannotLook, ""),
    ],
    ids=["above-1", "below-0", "among", "by", "no-batches", "no-weights", "parallel", "compiled"],
)
def test_bad_arguments_are_refused(build, arguments, error, word) -> None:
    model = build()
    assert_raises(error, lambda: ActivateWhilePruning(model, **arguments), word)


def test_an_optimiser_of_something_else_is_refused() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.1)

    def enter() -> None:
        with ap.held(sgd(net())):
            raise AssertionError("entered")

    assert_raises(BadValue, enter, "has none")


def test_it_says_what_it_does_and_where_it_is() -> None:
    model = net()
    ap = ActivateWhilePruning(model, 0.02, "any", by="magnitude")
    what = "<ActivateWhilePruning of Sequential: share=0.02, among='any', by='magnitude'"
    assert repr(ap) == what + ", no round has begun>"
    ap.begin_round()
    assert repr(ap) == what + ">"
