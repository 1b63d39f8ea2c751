"""Rounds: the order of calls, rewinding, and killed runs that end like uninterrupted ones."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.ap.ap import in_stages, with_ap
from pruning.hosts.torch_prune import finish
from pruning.masks.masks import Masks
from pruning.pruners.pruners import global_magnitude, lowest, movement, random_weights
from pruning.rounds.round import Round
from pruning.rounds.rounds import run_rounds
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.pruning.rounds.small_rounds import (
    Held,
    Net,
    Spy,
    Stages,
    batch,
    magnitude,
    net,
    refused,
    state,
    train,
)


def counts(rounds: int, alive: int, share: float = 0.2) -> list[int]:
    found = [alive]
    for _ in range(rounds):
        found.append(found[-1] - math.floor(share * found[-1] + 1e-6))
    return found


# Zero is not pruned


@pytest.mark.parametrize("rewind", ["init", None])
def test_a_head_that_begins_at_zero_learns(rewind: str | None) -> None:
    model, held_masks = net(), []
    nn.init.zeros_(model.conv2.weight)

    def training(model: Net, held: Any) -> None:
        held_masks.append(held.masks)
        train(model, held)
        assert torch.equal(model.conv2.weight != 0, held.masks["conv2.weight"]), "what lives has learned"

    masks = run_rounds(model, training, magnitude, 0.2, 2, rewind=rewind)
    assert [held.alive for held in held_masks] == counts(2, 180) and held_masks[-1] == masks
    assert masks["conv2.weight"].any()


def test_a_network_that_was_pruned_before_stays_pruned_by_its_masks() -> None:
    masks = run_rounds(model := net(), train, magnitude, 0.5, 1)
    again = run_rounds(model, train, magnitude, 0.2, 1, masks=masks)
    assert (masks.alive, again.alive) == (90, 72)
    again.check_zero(model)
    assert all(not (again[name] & ~masks[name]).any() for name in masks)


def test_zeros_that_somebody_may_have_pruned_are_warned_of() -> None:
    masks = run_rounds(model := net(), train, magnitude, 0.5, 1)
    with pytest.warns(UserWarning, match="will learn: if they were pruned, pass their masks") as caught:
        again = run_rounds(model, train, magnitude, 0.2, 1)
    assert [warning.filename for warning in caught] == [__file__]
    assert again.alive == 144, "all lived, as the warning says"
    assert masks.alive == 90


# What happens, in order


def test_the_order_of_calls_and_the_counts() -> None:
    model, calls = net(), []
    start = state(model)

    def training(model: nn.Module, held: Held) -> None:
        alive = Masks.of(model).alive
        calls.append(("train", alive))
        if alive < Masks.of(model).size:
            rewound = {
                name: tensor * (Masks.of(model)[name] if tensor.dim() > 1 else 1) for name, tensor in start.items()
            }
            assert_bit_equal(state(model).values(), rewound.values())
        train(model, held)

    def pruner(round: Round, share: float) -> Masks:
        calls.append(("cut", round.masks.alive))
        return magnitude(round, share)

    masks = run_rounds(
        model, training, pruner, 0.2, 3, after=lambda number, masks: calls.append(("after", number, masks.alive))
    )
    a, b, c, d = counts(3, 180)
    assert (a, b, c, d) == (180, 144, 116, 93)
    assert calls == [
        ("train", a), ("cut", a), ("train", b), ("after", 1, b), ("cut", b), ("train", c), ("after", 2, c),
        ("cut", c), ("train", d), ("after", 3, d),
    ]  # fmt: skip
    assert masks.alive == d
    assert Masks.of(model) == masks


def test_without_a_training_first_the_cut_comes_first() -> None:
    calls = []
    run_rounds(
        net(), lambda model, held: calls.append("train"), lambda *args: calls.append("cut") or magnitude(*args),
        0.5, 2, train_first=False,
    )  # fmt: skip
    assert calls == ["cut", "train", "cut", "train"]


def test_a_training_starts_without_gradients() -> None:
    def training(model: nn.Module, held: Held) -> None:
        assert all(param.grad is None for param in model.parameters())
        train(model, held)

    model = net()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    run_rounds(model, training, magnitude, 0.2, 1)


def test_no_rounds_train_once_or_not_at_all() -> None:
    calls = []
    for first in (True, False):
        masks = run_rounds(net(), lambda *_: calls.append("train"), magnitude, 0.5, 0, train_first=first)
        assert masks.share == 1
    assert calls == ["train"]


def test_the_round_is_told_weights_from_where_it_began() -> None:
    model, spy, begun, ended = net(), Spy(), [], []

    def training(model: nn.Module, held: Held) -> None:
        begun.append(state(model))
        train(model, held)
        ended.append(state(model))

    run_rounds(model, training, spy, 0.2, 2)
    for round, before, now in zip(spy.rounds, begun, ended, strict=False):
        for name in round.masks:
            assert torch.equal(round.before[name], before[name])
            assert torch.equal(round.now[name], now[name])
            assert not torch.equal(round.now[name], round.before[name])


def test_stages_train_between_cuts_and_rewind_after_the_last() -> None:
    model, spy, calls = net(), Stages(), []
    start = state(model)

    def training(model: nn.Module, held: Held) -> None:
        calls.append((Masks.of(model).alive, torch.equal(model.conv2.bias, start["conv2.bias"])))
        train(model, held)

    masks = run_rounds(model, training, spy, 0.2, 2, after=lambda number, _: calls.append(number))
    _, first, second = counts(2, 180)
    assert calls == [(180, True), (162, False), (first, True), 1, (130, False), (second, True), 2]
    assert masks.alive == second
    for cut, other in ((0, 1), (2, 3)):  # both cuts of a round look back to where it began
        assert_bit_equal(spy.rounds[cut].before.values(), spy.rounds[other].before.values())
    assert torch.equal(spy.rounds[0].before["conv1.weight"], start["conv1.weight"])
    rewound = start["conv1.weight"] * spy.rounds[2].masks["conv1.weight"]
    assert torch.equal(spy.rounds[2].before["conv1.weight"], rewound)


def test_gradients_reach_the_pruner_and_leave_no_trace() -> None:
    model, spy = net(), Spy("gradients")
    x, y = batch()
    seen: list[Any] = []

    def gradients(model: nn.Module) -> None:
        model.eval()
        torch.randn(3), random.random(), numpy.random.random()
        assert all(param.grad is None for param in model.parameters())
        nn.functional.cross_entropy(model.train()(x), y).backward()
        model.eval()
        seen.append({name: param.grad.clone() for name, param in model.named_parameters()})

    class Watched(Spy):
        def __call__(self, round: Round, share: float) -> Masks:
            assert all(param.grad is None for param in round.model.parameters())
            assert round.model.training
            assert_bit_equal([*state(round.model).values(), torch.get_rng_state()], before[-1])
            return super().__call__(round, share)

    before: list[list[Tensor]] = []

    def training(model: nn.Module, held: Held) -> None:
        train(model, held)
        before.append([*state(model).values(), torch.get_rng_state()])

    spy = Watched("gradients")
    run_rounds(model, training, spy, 0.2, 2, gradients=gradients)
    assert len(spy.rounds) == 2
    for given, made in zip(spy.rounds, seen, strict=True):
        assert_bit_equal(given.gradients.values(), [made[name] for name in given.masks])


@pytest.mark.parametrize("kind", [Spy, Stages])
def test_movement_reaches_the_pruner(kind: type[Spy]) -> None:
    sums: list[dict[str, Tensor]] = []
    spy = kind("movement")

    def training(model: nn.Module, held: Held) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
        with held(optimizer):
            for _ in range(2):
                x, y = batch()
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                for name, param in model.named_parameters():
                    total[name] -= param.detach() * param.grad
                optimizer.step()
        sums.append(total)

    run_rounds(net(), training, spy, 0.2, 2)
    if kind is Stages:  # the movement of a round, over all its trainings: 0 and 1, then 2 and 3
        for place in (1, 3):
            sums[place] = {name: value + sums[place - 1][name] for name, value in sums[place].items()}
    for round, total in zip(spy.rounds, sums, strict=False):
        for name in round.masks:
            torch.testing.assert_close(round.movement[name], total[name])
            assert round.movement[name].abs().sum() > 0


def test_norms_are_estimated_after_the_rewind() -> None:
    images = [torch.randn(4, 3, 8, 8) for _ in range(250)]
    model, seen, start = net(), [], net().bn.running_mean.clone()

    def training(model: Net, held: Held) -> None:
        with torch.no_grad():
            outputs = torch.cat([model.conv1(x) for x in images])
        same = torch.allclose(model.bn.running_mean, outputs.mean((0, 2, 3)), atol=1e-5)
        seen.append((same, torch.equal(model.bn.running_mean, start)))
        train(model, held)

    run_rounds(model, training, magnitude, 0.2, 2, recalibrate=images)
    assert seen == [(False, True), (True, False), (True, False)]


def test_what_is_cut_is_made_up_for_also_after_a_rewind() -> None:
    images, begun, ended = torch.randn(8, 3, 8, 8), list[Tensor](), list[Tensor]()
    start = _mean_output(net(), images)

    def training(model: Net, held: Held) -> None:
        begun.append(_mean_output(model, images))
        train(model, held)
        ended.append(_mean_output(model, images))

    run_rounds(net(), training, magnitude, 0.5, 1, rewind=None, compensate=[images])
    torch.testing.assert_close(begun[1], ended[0])
    run_rounds(net(), training, magnitude, 0.5, 2, compensate=[images])
    for mean in begun[2:]:  # of all that is pruned, not only of the last cut
        torch.testing.assert_close(mean, start)


@torch.no_grad()
def _mean_output(model: nn.Module, images: Tensor) -> Tensor:
    was = model.training
    mean = model.eval()(images).mean(0)
    model.train(was)
    return mean


def test_given_masks_and_a_filter_say_what_is_pruned() -> None:
    model = net()
    masks = Masks({"conv1.weight": torch.rand(4, 3, 3, 3) < 0.5})
    ended = run_rounds(model, train, magnitude, 0.5, 1, masks=masks)
    assert list(ended) == ["conv1.weight"]
    assert ended.alive == masks.alive - masks.alive // 2
    assert not bool((ended["conv1.weight"] & ~masks["conv1.weight"]).any())
    ended = run_rounds(net(), train, magnitude, 0.5, 1, keep=lambda name, _: name == "conv2.weight")
    assert list(ended) == ["conv2.weight"]


def test_weights_under_the_masks_of_a_host_are_refused() -> None:
    model = net()
    prune.l1_unstructured(model.conv1, "weight", amount=54)
    with assert_untouched(model):
        refused(BadValue, model, "conv1.weight", "torch_prune.finish(model)", "ActivateWhilePruning")
        refused(BadValue, model, "conv1.weight", masks=Masks.of(model))
    other = run_rounds(model, train, magnitude, 0.5, 1, keep=lambda name, _: name == "conv2.weight")
    assert other.alive == 36
    masks = Masks.full(model) & finish(model) & other
    assert run_rounds(model, train, magnitude, 0.5, 1, masks=masks).alive == 45
    model.eval()(torch.randn(1, 3, 8, 8))


def test_a_weight_without_a_gradient_is_refused_by_name() -> None:
    model = net()
    model.conv2.weight.requires_grad_(False)
    x, y = batch()

    def gradients(model: nn.Module) -> None:
        nn.functional.cross_entropy(model(x), y).backward()

    asked = (train, Spy("gradients"), 0.2, 1)
    assert_raises(BadValue, lambda: run_rounds(model, *asked, gradients=gradients),
                  "conv2.weight has no gradient (frozen?)", "keep=")  # fmt: skip
    assert all(param.grad is None for param in model.parameters()) and model.training
    masks = run_rounds(model, *asked, gradients=gradients, keep=lambda name, _: name != "conv2.weight")
    assert list(masks) == ["conv1.weight"]
    assert_raises(BadValue, lambda: run_rounds(net(), *asked, gradients=lambda _: None), "leaves no gradient")


def test_gradients_and_trainings_that_fail_say_where() -> None:
    def gradients(model: nn.Module) -> None:
        model(torch.zeros(2, 5, 8, 8)).sum().backward()

    model = net()
    asked = (train, Spy("gradients"), 0.2, 1)
    words = ("`gradients` fails on Net", "RuntimeError", "5 channels")
    error = assert_raises(BadValue, lambda: run_rounds(model, *asked, gradients=gradients), *words)
    assert isinstance(error.__cause__, RuntimeError)
    assert all(param.grad is None for param in model.parameters()) and model.training

    class Stopped(Exception):
        pass

    def training(model: nn.Module, held: Any) -> None:
        if held.masks.share < 0.7:
            raise Stopped("enough")
        train(model, held)

    stopped = assert_raises(Stopped, lambda: run_rounds(net(), training, magnitude, 0.2, 3), "enough")
    assert stopped.__notes__ == ["In a training of run_rounds: round 2, after its cut 1."]


def test_a_weight_that_no_optimiser_moves_has_no_movement() -> None:
    def training(model: nn.Module, held: Held) -> None:
        assert isinstance(model, Net)
        with held(torch.optim.SGD(model.conv1.parameters(), lr=0.1)):
            pass

    assert_raises(BadValue, lambda: run_rounds(net(), training, Spy("movement"), 0.2, 1), "has conv2.weight", "keep=")
    run_rounds(net(), training, magnitude, 0.2, 1)  # nobody asks for it


def test_a_cut_by_movement_before_any_is_refused() -> None:
    refused(BadValue, model := net(), "weight has moved", "train_first=True", pruner=movement(), train_first=False)
    assert_bit_equal(state(model).values(), state(net()).values())
    assert run_rounds(net(), train, movement(), 0.2, 1).alive == 144


def test_training_that_lets_weights_live_again_is_an_error() -> None:
    def free(model: nn.Module, held: Held) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = batch()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    assert_raises(BadValue, lambda: run_rounds(net(), free, magnitude, 0.2, 1), "not zero any more", "held(optimizer)")
    assert_raises(BadValue, lambda: run_rounds(net(), free, Spy("movement"), 0.2, 1), "held")


def test_training_that_breaks_is_an_error() -> None:
    def broken(model: nn.Module, held: Held) -> None:
        with torch.no_grad():
            model.conv1.weight[0] = math.nan

    assert_raises(BadValue, lambda: run_rounds(net(), broken, magnitude, 0.2, 1), "finite")


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (lambda masks: None, BadValue),
        (lambda masks: dict(masks), BadValue),
        (lambda masks: Masks({"conv1.weight": masks["conv1.weight"]}), WrongModel),
        (lambda masks: Masks({name: torch.ones_like(value) for name, value in masks.items()}), BadValue),
    ],
)
def test_a_pruner_that_does_not_cut_is_an_error(returned: Callable[[Masks], Any], error: type[Exception]) -> None:
    masks = Masks({name: torch.rand(tensor.shape) < 0.5 for name, tensor in Masks.full(net()).items()})
    assert_raises(error, lambda: run_rounds(net(), train, lambda r, _: returned(r.masks), 0.2, 1, masks=masks))


# Bad input


def dropped(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in net().state_dict().items() if key != name}


def nan_in(values: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    values[name].view(-1)[0] = math.nan
    return values


REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "share above 1": (BadValue, "share", {"share": 1.2}),
    "share below 0": (BadValue, "share", {"share": -0.1}),
    "share is nan": (BadValue, "share", {"share": math.nan}),
    "rounds below 0": (BadValue, "rounds", {"rounds": -1}),
    "rounds no number": (BadValue, "rounds", {"rounds": 1.5}),
    "rewind to a word": (BadValue, "rewind", {"rewind": "start"}),
    "rewind lacks a weight": (WrongModel, "conv1.weight", {"rewind": dropped("conv1.weight")}),
    "rewind lacks a buffer": (WrongModel, "bn.running_mean", {"rewind": dropped("bn.running_mean")}),
    "rewind of other shapes": (WrongModel, "conv1.weight", {"rewind": net(width=5).state_dict()}),
    "rewind with more": (WrongModel, "head", {"rewind": {**net().state_dict(), "head": torch.zeros(1)}}),
    "rewind is nan": (BadValue, "finite", {"rewind": nan_in(net().state_dict(), "bn.weight")}),
    "masks of another model": (WrongModel, "another model", {"masks": Masks.full(net(width=5))}),
    "masks of no kind": (BadValue, "masks", {"masks": {"conv1.weight": torch.ones(4, 3, 3, 3)}}),
    "masks and keep": (BadValue, "keep", {"masks": Masks.full(net()), "keep": lambda *_: True}),
    "nothing kept": (NothingPicked, "not have prunable weights", {"keep": lambda *_: False}),
    "no masks": (NothingPicked, "not have prunable weights", {"masks": Masks({})}),
    "not a pruner": (BadValue, "pruner", {"pruner": "magnitude"}),
    "a class": (BadValue, "pruner", {"pruner": Spy}),
    "no gradients": (BadValue, "gradients", {"pruner": Spy("gradients")}),
    "gradients no function": (BadValue, "gradients", {"pruner": Spy("gradients"), "gradients": 3}),
    "no training": (BadValue, "train(model, held)", {"train": None}),
    "after no function": (BadValue, "after(number, masks)", {"after": [1]}),
    "unknown wants": (BadValue, "hessian", {"pruner": Spy("hessian")}),
    "movement of nothing": (BadValue, "movement", {"pruner": Spy("movement"), "train_first": False}),
    "compensate on nothing": (BadValue, "No batches", {"compensate": []}),
    "compensate once": (BadValue, "read once", {"compensate": iter([torch.zeros(4, 3, 8, 8)])}),
    "compensate on other images": (BadValue, "Batch 1", {"compensate": [torch.zeros(4, 5, 8, 8)]}),
    "recalibrate on nothing": (BadValue, "No batches", {"recalibrate": []}),
    "recalibrate once": (BadValue, "read once", {"recalibrate": iter([torch.zeros(4, 3, 8, 8)])}),
    "recalibrate other images": (BadValue, "recalibrate", {"recalibrate": [torch.zeros(4, 5, 8, 8)]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_changes(case: str, tmp_path: Path) -> None:
    error, word, changed = REFUSED[case]
    model = net()
    with assert_untouched(model):
        refused(error, model, word, folder=tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "pruner",
    [
        global_magnitude, random_weights, lowest, in_stages, partial(global_magnitude), lambda round: round.masks,
        lambda round, share, seed: round.masks, lambda *, round, share: round.masks,
    ],
    ids=["factory", "of two arguments", "of three", "of stages", "partial", "one", "three", "keywords"],
)  # fmt: skip
def test_a_pruner_that_does_not_take_a_round_and_a_share_is_refused(pruner: Any) -> None:
    with assert_untouched(model := net()):
        refused(BadValue, model, "This is not a pruner", "pruning.", pruner=pruner)


def test_a_pruner_whose_signature_nobody_knows_is_tried() -> None:
    class Unknown(Spy):
        __signature__ = "none"

    assert_raises(TypeError, lambda: inspect.signature(Unknown()))
    assert run_rounds(net(), train, Unknown(), 0.2, 1).alive == 144


def test_bad_models_are_refused() -> None:
    broken = net()
    nan_in(broken.state_dict(), "conv1.weight")
    for model, error, word, changed in (
        (broken, BadValue, "finite", {}),
        (nn.DataParallel(net()), CannotLook, "module", {}),
        (nn.Sequential(nn.ReLU()), NothingPicked, "not have prunable weights", {}),
        (nn.Conv2d(3, 4, 3, bias=False), NothingPicked, "no bias", {"compensate": [torch.zeros(4, 3, 8, 8)]}),
        (nn.Conv2d(3, 4, 3), NothingPicked, "batch norm", {"recalibrate": [torch.zeros(4, 3, 8, 8)]}),
    ):
        with assert_untouched(model):
            refused(error, model, word, **changed)


def test_a_pruner_may_refuse_the_share_in_advance() -> None:
    class Half(Spy):
        def check(self, share: float) -> None:
            raise BadValue("too much for me")

    class NoStage(Spy):
        def stages(self, alive: int, share: float) -> list[Callable[[Round], Masks]]:
            if share > 0.1:
                raise BadValue("too much for me")
            return []

    for pruner in (Half(), NoStage()):
        with assert_untouched(model := net()):
            refused(BadValue, model, "too much", pruner=pruner)
    refused(BadValue, net(), "stages", pruner=NoStage(), share=0.1)


# Killed, and gone on


# Folders


def test_a_share_that_is_less_than_aps_is_refused_before_training() -> None:
    trained: list[object] = []
    pruner = with_ap(global_magnitude(), ap_share=0.3)
    assert_raises(BadValue, lambda: run_rounds(Net(), lambda *_: trained.append(1), pruner, 0.2, 1), "ap_share=0.3")
    assert not trained
