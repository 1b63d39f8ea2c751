"""The optimizer follows a structural step, or refuses before anything is cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.optim import Lookahead

from pruning.hosts import torch_pruning as host
from pruning.masks.masks import Masks
from surgery.errors import BadValue
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.pruning.hosts.torch_pruning.marked_net import IMAGES, Net, found, mark, pruner_of, train

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, nesterov=True, foreach=False),
    "sgd foreach": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, weight_decay=0.1, foreach=True),
    "sgd fused": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True, foreach=False),
    "adamw foreach": lambda params: torch.optim.AdamW(params, lr=1e-3, foreach=True),
    "adamw fused": lambda params: torch.optim.AdamW(params, lr=1e-3, amsgrad=True, fused=True),
    "lookahead": lambda params: Lookahead(torch.optim.SGD(params, lr=1e-3, momentum=0.9), k=1),
}


def test_an_optimiser_inside_a_wrapper_follows(net: Net) -> None:
    class Prepared:
        """Not a torch optimiser, but with one inside, as in Accelerate and apex."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            self.optimizer.step()

        def zero_grad(self) -> None:
            self.optimizer.zero_grad()

    inner = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    optimizer: Any = Prepared(inner)
    train(net, optimizer)
    pruner = pruner_of(net)
    host.step(pruner, optimizer, IMAGES)
    assert {id(param) for param in inner.param_groups[0]["params"]} == {id(param) for param in net.parameters()}
    assert inner.state[net.body.weight]["momentum_buffer"].shape == net.body.weight.shape == (4, 4, 3, 3)
    before = net.body.weight.detach().clone()
    train(net, optimizer)
    assert not torch.equal(net.body.weight, before)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_optimiser_follows(net: Net, kind: str) -> None:
    weights, others = list(net.parameters())[:4], list(net.parameters())[4:]
    optimizer = OPTIMISERS[kind]([{"params": weights, "lr": 0.01}, {"params": others, "weight_decay": 0.0}])
    train(net, optimizer)
    inner = getattr(optimizer, "_base_optimizer", optimizer)
    names = {id(param): name for name, param in net.named_parameters()}
    groups = [[names[id(param)] for param in group["params"]] for group in optimizer.param_groups]
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    state = {names[id(param)]: dict(kept) for param, kept in inner.state.items()}
    schedule = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
    marks = mark(net)
    host.step(pruner_of(net), optimizer, IMAGES)
    places = found(net, marks)

    names = {id(param): name for name, param in net.named_parameters()}
    assert [[names.get(id(param)) for param in group["params"]] for group in optimizer.param_groups] == groups
    assert [{key: value for key, value in g.items() if key in options[0]} for g in optimizer.param_groups] == options
    assert {names.get(id(param)) for param in inner.state} == set(state)
    for param, kept in inner.state.items():
        name = names[id(param)]
        assert list(kept) == list(state[name])
        for key, now in kept.items():
            was = state[name][key]
            if key == "step":
                assert now is was
            else:
                assert now.stride() == param.stride() and now.dtype == was.dtype
                assert torch.equal(now, was.flatten()[places[name]]), (name, key)
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    net.train()
    train(net, optimizer, 1)
    schedule.step()
    assert [group["lr"] for group in inner.param_groups] == [0.005, 0.0005]
    moved = [name for name, param in net.named_parameters() if not torch.equal(param, before[name])]
    assert set(moved) >= {"stem.weight", "body.weight", "left.weight", "head.weight"}


def test_training_goes_on_as_if_the_channels_had_never_been(net: Net) -> None:
    """The momentum of the remaining weights is kept: the next step is that of a small network with this momentum."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, 3)
    kept = {name: optimizer.state[param]["momentum_buffer"] for name, param in net.named_parameters()}
    survivors = host.step(pruner_of(net), optimizer, IMAGES)
    small = copy.deepcopy(net)
    new = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    for name, param in small.named_parameters():
        new.state[param]["momentum_buffer"] = survivors.of(name, kept[name]).clone()
    train(net.train(), optimizer, 2)
    train(small.train(), new, 2)
    assert_bit_equal(net.state_dict().values(), small.state_dict().values())


def test_several_optimisers_follow(net: Net) -> None:
    both = [torch.optim.SGD(net.stem.parameters(), lr=0.1), torch.optim.Adam(net.body.parameters())]
    host.step(pruner_of(net), both, IMAGES)
    assert both[0].param_groups[0]["params"][0] is net.stem.weight
    assert both[1].param_groups[0]["params"][0] is net.body.weight


@pytest.mark.parametrize("none", [(), []])
def test_a_step_without_an_optimiser(net: Net, none: Any) -> None:
    assert host.step(pruner_of(net), none, IMAGES)
    assert net.stem.weight.shape == (4, 3, 3, 3)


def test_an_optimiser_that_cannot_follow_is_refused(net: Net) -> None:
    other = torch.optim.SGD(Net().parameters(), lr=0.1)
    factored = torch.optim.Adafactor(net.parameters())
    train(net, factored)
    pruner = pruner_of(net)
    with assert_untouched(net):
        assert_raises(BadValue, lambda: host.step(pruner, other, IMAGES), "not have parameters of", "SGD")
        assert_raises(BadValue, lambda: host.step(pruner, factored, IMAGES), "Adafactor", "row_var", "stem.weight")
    assert pruner.current_step == 0
    assert host.step(pruner, example=IMAGES)


def test_an_optimiser_inside_held_is_refused(net: Net) -> None:
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    pruner = pruner_of(net)
    with Masks.full(net).held(net, optimizer), assert_untouched(net):
        assert_raises(BadValue, lambda: host.step(pruner, optimizer, IMAGES), "leave `held` first, then step, then")
    assert len(host.step(pruner, optimizer, IMAGES)) > 0
    with Masks.of(net).held(net, optimizer):
        train(net, optimizer)
