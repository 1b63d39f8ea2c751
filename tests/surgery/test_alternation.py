"""Alternating training: what learns in which phase; frozen parameters do not change by a bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.activations import FReLU
from surgery.schedule.progress import progress_of
from tests.asserts import assert_same_function
from tests.models import picture

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.05, weight_decay=0.1),
}
X = picture() * 4 - 2


class Net(nn.Module):
    """Two ReLUs, weights that the user froze, and a PReLU that does not alternate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.act1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.act2, self.own = nn.Conv2d(4, 4, 1), nn.ReLU(), nn.PReLU(4)
        self.fc = nn.Linear(4, 3)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.norm(self.conv1(x)))))
        return self.fc(self.own(x - 0.1).mean((2, 3)))


SLOPES = {f"{act}.{side}" for act in ("act1", "act2") for side in ("positive", "negative")}
POSITIVE = {name for name in SLOPES if name.endswith("positive")}
USERS = {"norm.bias"}  # frozen by the user
ACTIVATIONS = SLOPES | {"own.weight"}


def alternating(what: str, every: int = 1) -> nn.Module:
    torch.manual_seed(0)
    rule = surgery.swap("frelu", activation="relu", alternate=what, every=every)
    return surgery.transform(Net().train(), rule, X)[0]


def step(model: nn.Module, optimiser: torch.optim.Optimizer, set_to_none: bool = True) -> set[str]:
    """Train one step, and return the names of the parameters that moved."""
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimiser.zero_grad(set_to_none=set_to_none)
    (model(X).square().sum() - model(X).sum()).backward()
    optimiser.step()
    return {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def learning(model: nn.Module) -> set[str]:
    return {name for name, param in model.named_parameters() if param.requires_grad}


def acts(model: nn.Module) -> list[FReLU]:
    return [module for module in model.modules() if isinstance(module, FReLU)]


# What moves


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("every", [1, 2])
def test_one_set_of_slopes_moves_while_the_other_is_frozen(optimiser: str, set_to_none: bool, every: int) -> None:
    model = alternating("slopes", every)
    opt = OPTIMISERS[optimiser](model.parameters())
    assert step(model, opt, set_to_none) == names(model) - USERS  # before the first progress everything learns
    for number in range(4 * every):
        surgery.set_progress(model, number / 100, step=number)
        wanted = POSITIVE if number // every % 2 == 0 else SLOPES - POSITIVE
        assert step(model, opt, set_to_none) & SLOPES == wanted
    surgery.set_progress(model, 1.0, step=4 * every + 1)
    assert step(model, opt, set_to_none) == names(model) - USERS


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("every", [1, 3])
def test_the_slopes_move_while_the_weights_rest_and_the_other_way(
    optimiser: str, set_to_none: bool, every: int
) -> None:
    model = alternating("weights", every)
    opt = OPTIMISERS[optimiser](model.parameters())
    assert step(model, opt, set_to_none) == names(model) - USERS
    for number in range(4 * every):
        surgery.set_progress(model, number / 100, step=number)
        moved = step(model, opt, set_to_none)
        if number // every % 2 == 0:
            assert moved == names(model) - SLOPES - USERS
        else:
            assert moved == ACTIVATIONS
    surgery.set_progress(model, 1.0)
    assert step(model, opt, set_to_none) == names(model) - USERS


def test_a_gradient_of_before_does_not_move_what_is_frozen() -> None:
    for what in ("slopes", "weights"):
        model = alternating(what)
        opt = OPTIMISERS["adam"](model.parameters())
        model(X).square().sum().backward()
        frozen = SLOPES - POSITIVE if what == "slopes" else SLOPES
        before = {name: param.detach().clone() for name, param in model.named_parameters() if name in frozen}
        surgery.set_progress(model, 0.0, step=0)
        opt.step()
        assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in before.items())
        if what == "weights":
            model(X).square().sum().backward()
            surgery.set_progress(model, 0.0, step=1)
            weights = {
                name: param.detach().clone() for name, param in model.named_parameters() if name not in ACTIVATIONS
            }
            opt.step()
            assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in weights.items())


def test_what_is_frozen_has_no_gradient_at_all() -> None:
    model = alternating("slopes")
    surgery.set_progress(model, 0.5, step=1)
    model(X).sum().backward()
    assert all(act.positive.grad is None and act.negative.grad is not None for act in acts(model))
    assert learning(model) == names(model) - USERS  # frozen by the computation, not by a flag


def test_the_function_is_the_same_in_every_phase() -> None:
    for what in ("slopes", "weights"):
        model = alternating(what).eval()
        wanted = Net().eval()
        wanted.load_state_dict(model.state_dict(), strict=False)
        for number in (0, 1):
            surgery.set_progress(model, 0.5, step=number)
            assert torch.allclose(model(X), wanted(X), atol=1e-6)


# Resting weights


def test_resting_weights_are_flagged_and_flagged_back() -> None:
    model = alternating("weights", every=2)
    for number, resting in ((0, False), (1, False), (2, True), (3, True), (4, False), (6, True), (6, True), (5, False)):
        surgery.set_progress(model, 0.5, step=number)
        assert learning(model) == (ACTIVATIONS if resting else names(model) - USERS)
        assert not (resting and [name for name, param in model.named_parameters() if param.grad is not None])
    assert not model.norm.bias.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize("end", [lambda m: surgery.set_progress(m, 1.0, step=1), surgery.settle, surgery.undo])
def test_at_the_end_everything_learns_again(end: Callable[[nn.Module], Any]) -> None:
    model = alternating("weights")
    surgery.set_progress(model, 0.5, step=1)
    assert learning(model) == ACTIVATIONS
    end(model)
    assert learning(model) == names(model) - USERS
    opt = OPTIMISERS["sgd"](model.parameters())
    assert step(model, opt) == names(model) - USERS


def test_undoing_one_of_two_steps_keeps_the_phase() -> None:
    model = alternating("weights")
    surgery.set_progress(model, 0.5, step=1)
    edited, _ = surgery.transform(model, surgery.swap("pwlu", activation="prelu"), X)
    own = {f"own.{name}" for name in ("heights", "left", "right", "low_slope", "high_slope")}
    assert learning(edited) == SLOPES | own
    assert learning(model) == ACTIVATIONS
    surgery.undo(edited, 1)
    assert learning(edited) == ACTIVATIONS
    surgery.set_progress(edited, 0.5, step=2)
    assert learning(edited) == names(edited) - USERS
    assert_same_function(surgery.undo(edited), surgery.undo(model), X)


def test_undoing_the_step_that_alternates_frees_the_weights() -> None:
    torch.manual_seed(0)
    model, _ = surgery.transform(Net(), surgery.swap("gelu", site="own"), X)
    surgery.transform_(model, surgery.swap("frelu", activation="relu", alternate="weights"), X)
    surgery.set_progress(model, 0.5, step=1)
    assert learning(model) == SLOPES
    surgery.undo(model, 1)
    assert learning(model) == names(model) - USERS


def test_a_failed_edit_in_a_resting_phase_changes_nothing() -> None:
    model = alternating("weights")
    surgery.set_progress(model, 0.5, step=1)
    with pytest.raises(surgery.NothingPicked):
        surgery.transform_(model, surgery.swap("gelu", activation="silu"), X)
    assert learning(model) == ACTIVATIONS
    surgery.set_progress(model, 0.5, step=2)
    assert learning(model) == names(model) - USERS


# Copies, files, wrappers


@pytest.mark.parametrize("what", ["slopes", "weights"])
def test_a_copy_made_in_a_phase_lives_on_by_itself(what: str) -> None:
    model = alternating(what)
    surgery.set_progress(model, 0.5, step=1)
    copied = copy.deepcopy(model)
    surgery.set_progress(model, 0.5, step=2)
    assert [act.phase for act in acts(copied)] == [1, 1] and [act.phase for act in acts(model)] == [0, 0]
    assert learning(copied) == (ACTIVATIONS if what == "weights" else names(copied) - USERS)
    surgery.set_progress(copied, 0.5, step=4)
    assert learning(copied) == learning(model) == names(model) - USERS
    moved = step(copied, OPTIMISERS["sgd"](copied.parameters()))
    assert moved & SLOPES == (POSITIVE if what == "slopes" else set())


@pytest.mark.parametrize("what", ["slopes", "weights"])
def test_a_phase_is_saved_and_loaded(what: str, tmp_path: Path) -> None:
    model = alternating(what)
    surgery.set_progress(model, 0.25, step=3)
    step(model, OPTIMISERS["sgd"](model.parameters()))
    surgery.save(model, tmp_path)
    loaded = surgery.load(tmp_path, Net().train())
    assert progress_of(loaded) == (0.25, 3)
    assert [act.phase for act in acts(loaded)] == [1, 1]
    assert learning(loaded) == learning(model)
    assert_same_function(loaded, model, X)
    for network in (model, loaded):
        surgery.set_progress(network, 0.3, step=4)
        assert learning(network) == names(network) - USERS


def test_the_phase_is_no_part_of_the_state() -> None:
    model, other = alternating("slopes"), alternating("slopes")
    surgery.set_progress(model, 0.5, step=1)
    other.load_state_dict(model.state_dict())
    assert [act.phase for act in acts(other)] == [None, None]
    assert list(model.state_dict()) == list(other.state_dict())


def test_weights_in_a_wrapper_rest_and_wake_too() -> None:
    model = alternating("weights")
    wrapped = nn.DataParallel(model)
    surgery.set_progress(wrapped, 0.5, step=1)
    assert learning(model) == ACTIVATIONS
    surgery.set_progress(wrapped, 0.5, step=2)
    assert learning(model) == names(model) - USERS


def test_what_the_user_freezes_afterwards_stays_frozen() -> None:
    model = alternating("weights")
    model.conv1.requires_grad_(False)  # type: ignore[union-attr]
    model.act1.requires_grad_(False)  # type: ignore[union-attr]
    frozen = USERS | {"conv1.weight", "conv1.bias", "act1.positive", "act1.negative"}
    for number in range(4):
        surgery.set_progress(model, 0.5, step=number)
        assert learning(model) == (ACTIVATIONS if number % 2 else names(model)) - frozen
    surgery.settle(model)
    assert learning(model) == names(model) - frozen


def test_a_model_built_by_hand_alternates() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), FReLU(4, alternate="weights"))
    surgery.set_progress(model, 0.5, step=1)
    assert learning(model) == {"1.positive", "1.negative"}
    surgery.set_progress(model, 0.5, step=2)
    assert learning(model) == names(model)
    assert not surgery.history_of(model)


def test_weights_round_an_edited_part_rest_too() -> None:
    model = nn.Sequential(alternating("weights"), nn.Conv2d(4, 2, 1))
    surgery.set_progress(model, 0.5, step=1)
    assert not {"1.weight", "1.bias"} & learning(model)
    surgery.set_progress(model, 0.5, step=2)
    assert {"1.weight", "1.bias"} <= learning(model)


def test_two_models_alternate_by_themselves() -> None:
    model, other = alternating("weights"), alternating("weights")
    surgery.set_progress(model, 0.5, step=1)
    assert learning(other) == names(other) - USERS
