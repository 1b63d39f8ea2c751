"""The base pruner of AP: what counts as one, and that it cuts the requested number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pruning.ap.ap import with_ap
from pruning.ap.base_pruner import check_base_pruner, host_cut
from pruning.masks.cut import cut_lowest
from pruning.masks.masks import Masks
from pruning.pruners.pruners import global_magnitude
from pruning.rounds.round import Round, snapshot
from surgery.errors import BadValue
from tests.asserts import assert_raises, assert_untouched


def round_of(alive: int) -> Round:
    layer = nn.Linear(alive, 1, bias=False)
    return Round.of(layer, {"weight": torch.zeros(1, alive)}, Masks({"weight": torch.ones(1, alive) > 0}))


def by_count(count_of):
    """A base pruner that computes its own count."""

    def host(round: Round, share: float) -> Masks:
        scores = {name: tensor.abs() for name, tensor in round.now.items()}
        return cut_lowest(round.masks, scores, count_of(share * round.masks.alive))

    return host


@pytest.mark.parametrize("count_of", [math.floor, round], ids=["floor", "round"])
def test_hosts_that_round_in_their_own_way_cut_the_count(count_of) -> None:
    for alive in (1, 7, 49, 100):
        for count in range(alive + 1):
            assert host_cut(by_count(count_of), count, round_of(alive)).alive == alive - count


@pytest.mark.parametrize("wrong", [lambda many: 0, lambda many: math.floor(many) + 1], ids=["none", "one more"])
def test_another_count_is_refused_with_both_numbers(wrong) -> None:
    now = round_of(8)
    there = "0 cut" if wrong(2) == 0 else "3 cut"
    with assert_untouched(now.model):
        assert_raises(BadValue, lambda: host_cut(by_count(wrong), 2, now), "host", "2 of 8 unpruned weights", there)
        assert_raises(BadValue, lambda: with_ap(by_count(wrong), 1 / 8)(now, 3 / 8), "2 of 8", there)


def test_what_a_host_returns_are_masks() -> None:
    assert_raises(BadValue, lambda: host_cut(lambda round, share: {}, 2, round_of(8)), "does not return masks", "dict")


def test_nobody_is_asked_where_nothing_lives() -> None:
    layer = nn.Linear(2, 1, bias=False)
    now = Round.of(layer, snapshot(layer), Masks({"weight": torch.zeros(1, 2) > 0}))
    assert host_cut(by_count(lambda many: 1 / 0), 0, now) == now.masks


def test_who_is_a_host() -> None:
    for host in (global_magnitude(), by_count(round), with_ap(global_magnitude(), 0.1)):
        check_base_pruner(host)
    for wrong, word in ((global_magnitude, "global_magnitude"), (lambda: None, "()"), (max, "")):
        if wrong is not max:
            assert_raises(BadValue, lambda wrong=wrong: check_base_pruner(wrong), "(round, share)", word)
    check_base_pruner(max)  # it does not say what it takes
    assert_raises(BadValue, lambda: check_base_pruner(0.5), "not a pruner")
