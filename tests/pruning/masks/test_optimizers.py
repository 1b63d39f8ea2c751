"""Masks hold through wrappers of optimisers and if weights are replaced between steps, or raise an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from timm.optim import Lookahead
from torch import nn
from torch.optim import SGD, Optimizer

from pruning.masks.hold import is_held
from pruning.masks.hold_in_training import Held
from pruning.masks.masks import Masks
from pruning.masks.optimizers import optimizers_in, stepping_in, within
from surgery.errors import BadValue
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.pruning.tiny import assert_held, loss_of, random_masks, tiny_net


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05, momentum=0.9)


class Prepared(Optimizer):
    """Like Accelerate's: a torch optimiser by class only, whose own hooks are never called."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class Stranger:
    """Like those of apex and fairscale: not a torch optimiser, with one or several inside."""

    def __init__(self, *optimizers: Any) -> None:
        self.optim = optimizers[0] if len(optimizers) == 1 else list(optimizers)

    def zero_grad(self) -> None:
        for inner in self.optim if isinstance(self.optim, list) else [self.optim]:
            inner.zero_grad()

    def step(self) -> None:
        for inner in self.optim if isinstance(self.optim, list) else [self.optim]:
            inner.step()


class Own(Optimizer):
    """An optimiser that never called torch's constructor, so that its steps cannot be observed."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self.param_groups = [{"params": list(params)}]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            param.sub_(0.1 * param.grad)


class ScheduleFree(Optimizer):
    """Schedule-free SGD: gradients at y, steps of z, and their average x for validation.

    Source: Defazio et al. 2024, "The road less scheduled", algorithm 1.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.05, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})
        self.training, self.steps = False, 0

    def train(self) -> None:
        self._to(True, lambda beta: 1 - beta)

    def eval(self) -> None:
        self._to(False, lambda beta: 1 - 1 / beta)

    @torch.no_grad()
    def _to(self, training: bool, share: Callable[[float], float]) -> None:
        for param in self.param_groups[0]["params"] if self.training != training else ():
            if "z" in self.state[param]:
                param.lerp_(self.state[param]["z"], share(self.param_groups[0]["beta"]))
        self.training = training

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert self.training
        self.steps += 1
        lr, beta = self.param_groups[0]["lr"], self.param_groups[0]["beta"]
        for param in self.param_groups[0]["params"]:
            z = self.state[param].setdefault("z", param.clone())
            param.lerp_(z, 1 / self.steps).sub_(param.grad, alpha=lr * (1 - beta * (1 - 1 / self.steps)))
            z.sub_(param.grad, alpha=lr)


def train(model: nn.Module, optimizer: Any, steps: int = 3, masks: Masks | None = None) -> None:
    """Make a number of steps; with masks, the gradients are masked by hand."""
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for param, mask in masks.pairs(model) if masks is not None else ():
            assert param.grad is not None
            param.grad.mul_(mask)
        optimizer.step()


def accelerated(model: nn.Module) -> Any:
    return pytest.importorskip("accelerate").Accelerator(cpu=True).prepare(sgd(model))


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "by class only": lambda model: Prepared(sgd(model)),
    "twice": lambda model: Prepared(Prepared(sgd(model))),
    "round lookahead": lambda model: Prepared(Lookahead(sgd(model), k=2)),
    "in lookahead": lambda model: Lookahead(sgd(model), k=2),
    "a stranger": lambda model: Stranger(sgd(model)),
    "strangers": lambda model: Stranger(Stranger(Prepared(sgd(model)))),
    "several": lambda model: Stranger(sgd(model[0]), Prepared(sgd(model[4]))),  # type: ignore[index]
    "accelerate": accelerated,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_masks_hold_through_wrappers(name: str) -> None:
    model = tiny_net()
    optimizer, masks = WRAPPERS[name](model), random_masks(model)
    with masks.held(model, optimizer):
        assert is_held(optimizer)
        for _ in range(5):
            train(model, optimizer, 1)
            assert_held(model, masks)
    assert not is_held(optimizer)


@pytest.mark.parametrize("name", WRAPPERS)
def test_movement_is_seen_through_wrappers_once(name: str) -> None:
    plain, model = tiny_net(), tiny_net()
    known: dict[str, Any] = {"several": [sgd(plain[0]), sgd(plain[4])]} | {
        wrapper: Lookahead(sgd(plain), k=2) for wrapper in WRAPPERS if "lookahead" in wrapper
    }
    optimizers = (known.get(name, sgd(plain)), WRAPPERS[name](model))
    found: list[dict[str, Any]] = [{}, {}]
    for network, optimizer, movement in zip((plain, model), optimizers, found, strict=True):
        with Held(network, random_masks(network), movement)(optimizer):
            train(network, Stranger(*optimizer) if isinstance(optimizer, list) else optimizer)
    assert list(found[0]) == list(found[1]) == ["0.weight", "4.weight"]
    assert_bit_equal(found[1].values(), found[0].values())


def test_a_step_that_a_scaler_skips_leaves_the_weights_zero() -> None:
    model = tiny_net()
    optimizer, masks, scaler = Prepared(sgd(model)), random_masks(model), torch.amp.GradScaler("cpu", init_scale=4.0)
    with masks.held(model, optimizer):
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step) * (torch.inf if step == 1 else 1)).backward()
            before = model[4].weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(model[4].weight, before) == (step == 1), "it was skipped, and the others were not"
            assert_held(model, masks)


@pytest.mark.parametrize("wrap", [lambda given: given, Prepared, Stranger], ids=["plain", "prepared", "stranger"])
def test_schedule_free_weights_stay_zero_where_one_validates(wrap: Callable[[Any], Any]) -> None:
    model, by_hand = tiny_net(), tiny_net()
    masks = random_masks(model)
    masks.lay_over(by_hand)
    inside, other = ScheduleFree(model.parameters()), ScheduleFree(by_hand.parameters())
    with masks.held(model, wrap(inside)):
        for _ in range(2):
            for network, optimizer in ((model, inside), (by_hand, other)):
                optimizer.train()
                train(network, optimizer, masks=masks)
            assert_held(model, masks)
            for optimizer in (inside, other):
                optimizer.eval()
            assert_held(model, masks)
    # What lives has learned as if the gradients of the rest had never been.
    assert_bit_equal(model[4].parameters(), by_hand[4].parameters())


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree", "ScheduleFreeWrapper"])
def test_the_schedule_free_package(name: str) -> None:
    package = pytest.importorskip("schedulefree")
    model = tiny_net()
    masks = random_masks(model)
    if name == "ScheduleFreeWrapper":
        optimizer = package.ScheduleFreeWrapper(SGD(model.parameters(), lr=0.05), weight_decay_at_y=0.1)
    else:
        optimizer = getattr(package, name)(model.parameters(), lr=0.05)
    with masks.held(model, optimizer):
        for _ in range(3):
            optimizer.train()
            train(model, optimizer)
            assert_held(model, masks)
            optimizer.eval()
            assert_held(model, masks)


def test_what_nobody_can_follow_is_refused_as_it_begins() -> None:
    model = tiny_net()
    masks = random_masks(model)
    for optimizer in (
        Own(model.parameters()),
        Prepared(Own(model.parameters())),
        [sgd(model), Own(model.parameters())],
    ):
        with assert_untouched(model):
            assert_raises(
                BadValue,
                lambda given=optimizer: masks.held(model, given).__enter__(),
                "cannot be followed",
                "__init__",  # type: ignore[misc]
            )
            assert_raises(
                BadValue, lambda given=optimizer: Held(model, masks, {})(given).__enter__(), "cannot be followed"
            )  # type: ignore[misc]


def test_what_is_no_optimiser_is_refused() -> None:
    for wrong in (None, [], "sgd", [1], nn.Linear(2, 2), Stranger(nn.Linear(2, 2))):
        assert_raises(BadValue, lambda given=wrong: optimizers_in(given), "not an optimiser")  # type: ignore[misc]


def test_a_scheduler_is_no_optimiser_though_it_holds_one() -> None:
    model = tiny_net()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for wrong, kinds in ((scheduler, "StepLR"), ([optimizer, scheduler], "[SGD, StepLR]")):
        with pytest.raises(BadValue) as caught:
            random_masks(model).held(model, wrong)  # type: ignore[arg-type]
        assert f"optimizer={kinds}" in str(caught.value) and "momentum" not in str(caught.value)


def test_none_are_enough_where_none_are_needed() -> None:
    assert optimizers_in([], at_least=0) == optimizers_in(iter(()), at_least=0) == []
    for wrong in ("", None, [1]):
        assert_raises(BadValue, lambda given=wrong: optimizers_in(given, at_least=0), "not an optimiser")  # type: ignore[misc]


def test_which_are_inside_and_which_step() -> None:
    base = sgd(tiny_net())
    lookahead = Lookahead(base)
    outer = Prepared(lookahead)
    assert within(outer) == [outer, lookahead, base]
    assert stepping_in(outer)[-1] is base and outer not in stepping_in(outer)
    assert stepping_in(base) == [base]
    assert optimizers_in(iter([base, outer])) == [base, outer]
