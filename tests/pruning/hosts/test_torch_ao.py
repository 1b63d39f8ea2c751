"""AP with the sparsifiers of torch.ao.pruning, which recompute their masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning import BaseSparsifier, CubicSL, WeightNormSparsifier
from torch.nn.utils import parametrize, prune

from pruning.ap.own_loop import ActivateWhilePruning
from pruning.hosts import commit, torch_ao, torch_prune
from pruning.masks.masks import Masks
from pruning.masks.prunable import prunable
from pruning.rounds.round import snapshot
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched

NAMES = ["0.weight", "3.weight"]


class Smallest(BaseSparsifier):
    """Masks a fraction of each tensor: its smallest weights, ignoring earlier masks."""

    def __init__(self, share: float) -> None:
        super().__init__(defaults={"sparsity_level": share})

    def update_mask(self, module: Any, tensor_name: str, sparsity_level: float, **_: Any) -> None:
        raw = module.parametrizations[tensor_name].original.detach().abs()
        mask = module.parametrizations[tensor_name][0].mask
        mask.copy_(raw > raw.flatten().kthvalue(max(1, int(sparsity_level * raw.numel()))).values)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def prepared(share: float = 0.25, kind: str = "blocks") -> tuple[nn.Sequential, BaseSparsifier]:
    """A model with a sparsifier that has made a step; the last layer is not sparsified."""
    model = net()
    if kind == "blocks":
        host: BaseSparsifier = WeightNormSparsifier(sparsity_level=share, sparse_block_shape=(1, 4))
        host.prepare(model, [{"tensor_fqn": "3.weight"}])
    else:
        host = Smallest(share)
        host.prepare(model, [{"tensor_fqn": name} for name in NAMES])
    host.step()
    return model, host


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 1) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(4, 2, 4, 4, generator=numbers), torch.randint(3, (4,), generator=numbers)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def in_training(kind: str = "each") -> tuple[nn.Sequential, BaseSparsifier, dict[str, Tensor], torch.optim.Optimizer]:
    model, host = prepared(kind=kind)
    before = snapshot(model)
    optimizer = sgd(model)
    train(model, optimizer)
    return model, host, before, optimizer


def unpruned(model: nn.Module, name: str) -> Tensor:
    """Where the weight that the layer multiplies with is not zero."""
    return model.get_submodule(name.rpartition(".")[0]).weight.detach() != 0


def test_exactly_so_many_of_what_the_sparsifier_holds() -> None:
    model, _, before, _ = in_training()
    old = Masks.of(model)
    signs = {name: tensor.detach() < 0 for name, tensor in prunable(model).items()}
    mine = torch_ao.cut(model, before, 12)
    new = Masks.of(model)
    assert list(mine) == NAMES and new == old & mine
    assert new.alive == old.alive - 12 == old.alive - (mine.size - mine.alive)
    assert all(bool(signs[name][~mine[name]].all()) for name in NAMES)
    moved = {name: (tensor.detach() - before[name]).abs() for name, tensor in prunable(model).items()}
    cut = torch.cat([moved[name][~mine[name]] for name in NAMES])
    left = torch.cat([moved[name][new[name] & signs[name]] for name in NAMES])
    assert cut.max() <= left.min()  # none of those left has moved less


@pytest.mark.parametrize("kind", ["each", "blocks"])
def test_a_step_of_the_sparsifier_revives_what_is_not_committed_again(kind: str) -> None:
    model, host, before, optimizer = in_training(kind)
    mine = torch_ao.cut(model, before, 12)
    revived = 0
    for seed in range(3):
        train(model, optimizer, seed=seed)
        host.step()
        revived += sum(int((unpruned(model, name) & ~mine[name]).sum()) for name in mine)
        hosts_own = Masks.of(model)
        commit(model, mine)
        assert Masks.of(model) == hosts_own & mine  # AP's zeros again, and nothing but them
        assert not any((unpruned(model, name) & ~mine[name]).any() for name in mine)
    assert revived > 0


def test_a_scheduler_too() -> None:
    model, host = prepared(0.5, "each")
    scheduler = CubicSL(host, init_sl=0.0, init_t=0, delta_t=1, total_t=6, initially_zero=True)
    optimizer = sgd(model)
    mine, alive = Masks({}), []
    for seed in range(5):
        before = snapshot(model)
        train(model, optimizer, seed=seed)
        host.step()
        scheduler.step()
        commit(model, mine)
        mine = mine & torch_ao.cut(model, before, 5)
        alive.append(Masks.of(model).alive)
    assert mine.size - mine.alive == 25  # five rounds of five, none of them twice
    assert alive == sorted(alive, reverse=True) and len(set(alive)) == 5


def test_zeros_hold_for_a_hundred_steps() -> None:
    model, _, before, optimizer = in_training()
    torch_ao.cut(model, before, 12)
    masks = Masks.of(model)
    for steps in (1, 99):
        train(model, optimizer, steps)
        assert all(torch.equal(unpruned(model, name), masks[name]) for name in NAMES)


def test_squashed_weights_are_plain_and_can_be_held() -> None:
    model, host, before, optimizer = in_training()
    mine = torch_ao.cut(model, before, 12)
    masks = Masks.of(model)
    expected = model(torch.ones(1, 2, 4, 4))
    host.squash_mask()
    assert set(model.state_dict()) == set(net().state_dict())
    assert torch.equal(model(torch.ones(1, 2, 4, 4)), expected)
    assert Masks.of(model) == masks
    with masks.held(model, optimizer):
        train(model, optimizer, 100)
    assert Masks.of(model) == masks and not any((unpruned(model, name) & ~mine[name]).any() for name in mine)


def test_the_masks_are_the_same_objects() -> None:
    """The sparsifier keeps them in its state."""
    model, host, before, _ = in_training()
    old = [host.state[name]["mask"] for name in NAMES]
    torch_ao.cut(model, before, 12)
    assert all(host.state[name]["mask"] is mask for name, mask in zip(NAMES, old, strict=True))
    assert all(torch.equal(mask != 0, Masks.of(model)[name]) for name, mask in zip(NAMES, old, strict=True))


def test_the_weights_underneath_are_untouched() -> None:
    model, _, before, _ = in_training()
    old = {name: tensor.detach().clone() for name, tensor in prunable(model).items()}
    torch_ao.cut(model, before, 12)
    assert all(torch.equal(tensor.detach(), old[name]) for name, tensor in prunable(model).items())


def test_a_copy_has_masks_of_its_own() -> None:
    model, _, before, _ = in_training()
    copied = copy.deepcopy(model)
    old = Masks.of(model)
    mine = torch_ao.cut(copied, before, 12)
    assert Masks.of(model) == old and Masks.of(copied) == old & mine
    x = torch.ones(1, 2, 4, 4)
    assert not torch.equal(copied(x), model(x))
    commit(model, mine)
    assert torch.equal(copied(x), model(x))


def test_masks_of_any_dtype_are_reached() -> None:
    model, _, before, _ = in_training()
    with torch.no_grad():
        for name in ("0", "3"):
            mask = model.get_submodule(name).parametrizations.weight[0].mask
            mask.data = mask.data.bool()  # as a sparsifier of blocks leaves it
    old = Masks.of(model)
    mine = torch_ao.cut(model, before, 12)
    assert Masks.of(model) == old & mine and mine.size - mine.alive == 12


def test_ap_beside_a_pipeline_cuts_the_same() -> None:
    first, _ = prepared(kind="each")
    other, host = prepared(kind="each")
    ap = ActivateWhilePruning(other, share=0.1, keep=lambda name, module: name in NAMES)
    before = snapshot(first)
    ap.begin_round()
    alive = sum(int(unpruned(other, name).sum()) for name in NAMES)
    for model in (first, other):
        train(model, sgd(model))
    ap.step()
    mine = torch_ao.cut(first, before, int(0.1 * alive))
    assert Masks.of(other) == Masks.of(first)
    host.step()
    ap.after_host_update()
    assert not any((unpruned(other, name) & ~mine[name]).any() for name in NAMES)


def test_both_hosts_in_one_model() -> None:
    model, _ = prepared(kind="blocks")
    prune.l1_unstructured(model[0], "weight", amount=10)
    old = Masks.of(model)
    numbers = torch.Generator().manual_seed(0)
    masks = Masks({name: torch.rand(tensor.shape, generator=numbers) < 0.5 for name, tensor in old.items()})
    commit(model, masks)
    assert Masks.of(model) == old & masks
    assert torch_prune.is_under(model[0], "weight") and parametrize.is_parametrized(model[3])
    assert not torch_prune.is_under(model[3], "weight")
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, snapshot(model), 1), "3.weight", "another library")


def test_masks_of_another_model_change_nothing() -> None:
    model, _, before, _ = in_training()
    wrong = Masks({"0.weight": torch.zeros(4, 2, 3, 3) > 0, "3.weight": torch.zeros(8, 15) > 0})
    with assert_untouched(model):
        assert_raises(WrongModel, lambda: commit(model, wrong), "3.weight", "(8, 15)")
        assert_raises(WrongModel, lambda: torch_ao.cut(model, {"0.weight": before["0.weight"]}, 1), "3.weight")


def test_bad_input_changes_nothing() -> None:
    model, _, before, _ = in_training()
    with assert_untouched(model):
        for count in (-1, 1.0, True, 10_000):
            assert_raises(BadValue, lambda count=count: torch_ao.cut(model, before, count))
        assert_raises(NothingPicked, lambda: torch_ao.cut(model, before, 1, keep=lambda name, _: name == "5.weight"))
        assert_raises(BadValue, lambda: torch_ao.cut(model, before, 1, among="some"), "among")
    assert_raises(NothingPicked, lambda: torch_ao.cut(net(), before, 1))
    assert_raises(CannotLook, lambda: torch_ao.cut(nn.DataParallel(model), before, 1), "model.module")


def test_another_parametrisation_beside_it_is_refused() -> None:
    model, _, before, _ = in_training()
    nn.utils.parametrizations.orthogonal(model[3])
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_ao.cut(model, before, 1), "3.weight")
