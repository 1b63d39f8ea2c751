"""A round: the weights when it began, the weights now, the masks in force."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pruning.masks.masks import Masks
from pruning.rounds.round import Round, snapshot, wants_of
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.tiny import random_masks, tiny_net, weights


def test_a_snapshot_is_a_copy() -> None:
    model = tiny_net()
    with assert_untouched(model):
        before = snapshot(model)
    assert list(before) == ["0.weight", "4.weight"]
    for name, weight in weights(model, before).items():
        assert torch.equal(before[name], weight)
        assert before[name].data_ptr() != weight.data_ptr()
        assert not before[name].requires_grad
        weight.add_(1)
        assert torch.equal(before[name] + 1, weight)


def test_a_snapshot_has_zeros_where_a_host_has_masked() -> None:
    model = tiny_net()
    prune.l1_unstructured(model[4], "weight", amount=0.5)
    assert model[4].weight_orig.count_nonzero() == 192
    before = snapshot(model)
    assert before["4.weight"].count_nonzero() == 96
    assert torch.equal(before["4.weight"], model[4].weight.detach())


def test_a_snapshot_of_chosen_weights() -> None:
    assert list(snapshot(tiny_net(), keep=lambda name, module: isinstance(module, nn.Linear))) == ["4.weight"]


def test_a_round_without_masks_takes_the_weights_of_a_model() -> None:
    model = tiny_net()
    before = snapshot(model)
    masks = random_masks(model)
    masks.lay_over(model)
    found = Round.of(model, before)
    assert found.masks == Masks.full(model), "zero is not pruned"
    assert found.before is before
    assert dict(found.gradients) == dict(found.movement) == {}
    for name, weight in weights(model, masks).items():
        assert torch.equal(found.now[name], weight)
        assert found.now[name].data_ptr() == weight.data_ptr(), "a copy"
        assert not found.now[name].requires_grad


def test_given_masks_go_before_zeros() -> None:
    model = tiny_net()
    full = Masks.full(model)
    before = snapshot(model)
    random_masks(model).lay_over(model)
    assert Round.of(model, before, full).masks == full
    masks = {"0.weight": torch.ones(4, 2, 3, 3)}
    found = Round.of(model, before, full, gradients=masks, movement=masks)
    assert found.gradients is masks
    assert found.movement is masks


def test_a_round_of_chosen_weights() -> None:
    model = tiny_net()
    before = snapshot(model)
    found = Round.of(model, before, keep=lambda name, module: isinstance(module, nn.Linear))
    assert list(found.masks) == list(found.now) == ["4.weight"]


def test_a_round_of_weights_under_a_host() -> None:
    model = tiny_net()
    before = snapshot(model)
    prune.l1_unstructured(model[4], "weight", amount=0.5)
    found = Round.of(model, before)
    assert torch.equal(found.masks["4.weight"], model[4].weight_mask.bool())
    assert found.masks["0.weight"].all()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_living_weights_that_are_no_numbers(number: float) -> None:
    model = tiny_net()
    before, masks = snapshot(model), random_masks(model)
    pruned = ~masks["4.weight"]
    with torch.no_grad():
        model[4].weight[pruned] = number
    with assert_untouched(model):
        Round.of(model, before, masks)  # those do not count
        assert_raises(BadValue, lambda: Round.of(model, before), "4.weight", "finite")
    with torch.no_grad():
        model[4].weight[~pruned] = number
    assert_raises(BadValue, lambda: Round.of(model, before, masks), "4.weight", "finite")


def test_other_models() -> None:
    model = tiny_net()
    other = tiny_net()
    other[4] = nn.Linear(64, 5)
    before, masks, linear, others = snapshot(model), Masks.full(model), nn.Linear(2, 2), Masks.full(other)
    for call, words in [
        (lambda: Round.of(model, snapshot(other)), ("before", "4.weight", "(5, 64)")),
        (lambda: Round.of(model, {}), ("before", "no 0.weight")),
        (lambda: Round.of(model, {"0.weight": before["0.weight"]}), ("before", "no 4.weight")),
        (lambda: Round.of(model, before, others), ("4.weight", "(5, 64)", "(3, 64)")),
        (lambda: Round.of(other, before, masks), ("4.weight", "(5, 64)")),
        (lambda: Round.of(linear, before, masks), ("0.weight",)),
        (lambda: Round(model, before, snapshot(other), masks), ("now", "4.weight")),
    ]:
        with assert_untouched(model):
            assert_raises(WrongModel, call, *words)


def test_models_without_weights_and_wrapped_ones() -> None:
    assert_raises(NothingPicked, lambda: snapshot(nn.ReLU()), "ReLU")
    assert_raises(NothingPicked, lambda: Round.of(nn.ReLU(), {}), "ReLU")
    wrapped = nn.DataParallel(tiny_net())
    assert_raises(CannotLook, lambda: snapshot(wrapped), "model.module")
    assert_raises(CannotLook, lambda: Round.of(wrapped, {}), "model.module")
    assert_raises(CannotLook, lambda: Round.of(wrapped, {}, Masks.full(tiny_net())), "model.module")


def test_what_a_pruner_wants() -> None:
    def plain(now: Round, share: float) -> Masks:
        return now.masks

    class Wanting:
        wants = ("gradients", "movement")

    assert wants_of(plain) == frozenset()
    assert wants_of(Wanting()) == {"gradients", "movement"}


def test_without_masks_those_of_a_host_say_what_lives() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[0].weight[0] = 0
    prune.l1_unstructured(model[4], "weight", amount=96)
    masks = Round.of(model, snapshot(model)).masks
    assert (int(masks["0.weight"].sum()), int(masks["4.weight"].sum())) == (72, 96)


def test_a_round_says_whose_it_is() -> None:
    model = tiny_net()
    round = Round.of(model, snapshot(model))
    assert repr(round) == f"<Round of {type(model).__name__}: {round.masks!r}>"
