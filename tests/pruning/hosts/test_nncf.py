"""AP with nncf.prune, whose schedulers recompute all masks; skipped if NNCF is not installed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.ap.own_loop import ActivateWhilePruning
from pruning.hosts import commit, torch_prune
from pruning.hosts import nncf as host
from pruning.masks.host_masks import nncf_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from pruning.rounds.round import snapshot
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched

nncf = pytest.importorskip("nncf")
schedulers = pytest.importorskip("nncf.torch.function_hook.pruning.magnitude.schedulers")

LOCAL = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
GLOBAL = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
LEARNED = nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED
NAMES = ["conv.weight", "first.weight", "last.weight"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(2, 4, 3), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.conv(x).relu().flatten(1)).relu())


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def under(mode: Any = LOCAL, **more: Any) -> Net:
    ratio = {} if mode == LEARNED else {"ratio": 0.3}
    return nncf.prune(net(), mode=mode, examples_inputs=torch.zeros(1, 2, 4, 4), **ratio, **more)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 1) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(4, 2, 4, 4, generator=numbers), torch.randint(3, (4,), generator=numbers)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def in_training(mode: Any = LOCAL) -> tuple[Net, dict[str, Tensor], torch.optim.Optimizer]:
    model = under(mode)
    before = snapshot(model)
    optimizer = sgd(model)
    train(model, optimizer)
    return model, before, optimizer


def plain(model: Net, masks: Masks) -> Net:
    """The same weights in a model without NNCF, with zeros where they are pruned."""
    fresh = net()
    fresh.load_state_dict({name: value for name, value in model.state_dict().items() if "nncf" not in name})
    masks.lay_over(fresh)
    return fresh


X = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)


@pytest.mark.parametrize("mode", [LOCAL, GLOBAL], ids=["local", "global"])
def test_living_is_what_the_model_computes_with(mode: Any) -> None:
    model, _, _ = in_training(mode)
    masks = Masks.of(model)
    assert list(masks) == NAMES and 0.6 < masks.share < 0.8
    assert torch.equal(plain(model, masks)(X), model(X))
    assert masks.size - masks.alive == sum(
        round(pruned.pruned_ratio * masks[pruned.tensor_name].numel())
        for pruned in nncf.pruning_statistic(model).pruned_tensors
    )


@pytest.mark.parametrize("mode", [LOCAL, GLOBAL], ids=["local", "global"])
def test_exactly_so_many_of_what_nncf_holds(mode: Any) -> None:
    model, before, _ = in_training(mode)
    old = Masks.of(model)
    weights = {name: tensor.detach().clone() for name, tensor in prunable(model).items()}
    mine = host.cut(model, before, 12)
    new = Masks.of(model)
    assert new == old & mine and new.alive == old.alive - 12 == old.alive - (mine.size - mine.alive)
    assert torch.equal(plain(model, new)(X), model(X))
    cut = torch.cat([(weights[name] - before[name])[~mine[name]].abs() for name in NAMES])
    left = torch.cat([(weights[name] - before[name])[new[name] & (weights[name] < 0)].abs() for name in NAMES])
    assert cut.max() <= left.min()  # none of those left has moved less
    assert all(bool((weights[name][~mine[name]] < 0).all()) for name in NAMES)
    assert all(torch.equal(tensor.detach(), weights[name]) for name, tensor in prunable(model).items())


def test_a_scheduler_revives_what_is_not_committed_again() -> None:
    model, before, optimizer = in_training()
    scheduler = schedulers.MultiStepMagnitudePruningScheduler(model, mode=LOCAL, steps={0: 0.2, 2: 0.4})
    mine, revived = host.cut(model, before, 12), 0
    for seed in range(4):
        scheduler.step()
        nncfs_own = Masks.of(model)
        revived += sum(int((nncfs_own[name] & ~mine[name]).sum()) for name in mine)
        commit(model, mine)
        assert Masks.of(model) == nncfs_own & mine
        assert torch.equal(plain(model, nncfs_own & mine)(X), model(X))
        train(model, optimizer, seed=seed)
        assert Masks.of(model) == nncfs_own & mine
    assert revived > 0


def test_rounds_add_up() -> None:
    model = under(GLOBAL)
    scheduler = schedulers.ExponentialMagnitudePruningScheduler(
        model, mode=GLOBAL, initial_ratio=0.1, target_ratio=0.5, target_epoch=4
    )
    optimizer, mine = sgd(model), Masks({})
    for seed in range(5):
        before = snapshot(model)
        train(model, optimizer, seed=seed)
        scheduler.step()
        commit(model, mine)
        mine = mine & host.cut(model, before, 3)
    assert mine.size - mine.alive == 15  # five rounds of three, none of them twice


def test_zeros_hold_for_a_hundred_steps() -> None:
    model, before, optimizer = in_training()
    host.cut(model, before, 12)
    masks = Masks.of(model)
    for steps in (1, 99):
        train(model, optimizer, steps)
        assert Masks.of(model) == masks and torch.equal(plain(model, masks)(X), model(X))


def test_a_copy_has_masks_of_its_own() -> None:
    model, before, _ = in_training()
    copied = copy.deepcopy(model)
    old = Masks.of(model)
    mine = host.cut(copied, before, 12)
    assert Masks.of(model) == old and Masks.of(copied) == old & mine


def test_weights_that_nncf_leaves_alone_are_left_alone() -> None:
    model = under(ignored_scope=nncf.IgnoredScope(patterns=["last.*"]))
    assert [name for name in NAMES if name in nncf_masks(model)] == NAMES[:2]
    before = snapshot(model)
    train(model, sgd(model))
    mine = host.cut(model, before, 5)
    assert list(mine) == NAMES[:2]
    old = model.last.weight.detach().clone()
    commit(model, Masks({"last.weight": old > 0}))
    assert torch.equal(model.last.weight, old * (old > 0))  # a plain weight is set to zero
    assert list(Masks.of(model)) == NAMES


def test_learned_masks_are_held_by_zeros() -> None:
    model = under(LEARNED)
    assert nncf_masks(model) == {}
    assert_raises(NothingPicked, lambda: host.cut(model, snapshot(model), 1))
    masks = Masks({"first.weight": model.first.weight.detach() > 0})
    optimizer = sgd(model)
    with masks.held(model, optimizer):
        train(model, optimizer, 10)
    assert not model.first.weight[~masks["first.weight"]].any()


def test_a_model_without_nncf_has_none_of_its_masks() -> None:
    model = net()
    assert nncf_masks(model) == {}
    assert_raises(NothingPicked, lambda: host.cut(model, snapshot(model), 1))


def test_bad_input_changes_nothing() -> None:
    model, before, _ = in_training()
    wrong = Masks({"conv.weight": torch.zeros(4, 2, 3, 3) > 0, "first.weight": torch.zeros(8, 15) > 0})
    with assert_untouched(model):
        assert_raises(WrongModel, lambda: commit(model, wrong), "first.weight", "(8, 15)")
        assert_raises(WrongModel, lambda: host.cut(model, {"conv.weight": before["conv.weight"]}, 1), "first.weight")
        for count in (-1, 1.0, True, 10_000):
            assert_raises(BadValue, lambda count=count: host.cut(model, before, count))
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, 1), "conv.weight", "another library")
    assert not prune.is_pruned(model)
    assert_raises(CannotLook, lambda: host.cut(nn.DataParallel(model), before, 1), "model.module")


def test_two_lines_in_a_pipeline_cut_the_same() -> None:
    (first, before, _), other = in_training(), under()
    ap = ActivateWhilePruning(other, share=0.1)
    alive = Masks.of(other).alive
    ap.begin_round()
    train(other, sgd(other))
    ap.step()
    mine = host.cut(first, before, int(0.1 * alive))
    assert Masks.of(other) == Masks.of(first)
    schedulers.MultiStepMagnitudePruningScheduler(other, mode=LOCAL, steps={0: 0.2}).step()
    ap.after_host_update()
    assert all(not (Masks.of(other)[name] & ~mine[name]).any() for name in NAMES)
