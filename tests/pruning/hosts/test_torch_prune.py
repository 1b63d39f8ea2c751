"""AP with torch.nn.utils.prune, and masks committed to its weights and to plain ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models.swin_transformer import ShiftedWindowAttention

from pruning.ap.own_loop import ActivateWhilePruning
from pruning.hosts import commit, torch_prune
from pruning.masks.masks import Masks
from pruning.masks.prunable import owner_of, prunable
from pruning.rounds.round import snapshot
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched

NAMES = ["0.weight", "2.weight", "5.weight"]
SIZE = 2 * 4 * 9 + 4 * 2 * 9 + 3 * 16


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 1) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(4, 2, 6, 6, generator=numbers), torch.randint(3, (4,), generator=numbers)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def host_step(model: nn.Module, amount: Any = 0.3) -> None:
    prune.global_unstructured([owner_of(model, name) for name in NAMES], prune.L1Unstructured, amount=amount)


def in_training(host: bool = True) -> tuple[nn.Sequential, dict[str, Tensor], torch.optim.Optimizer]:
    """A model in the middle of a round, the weights when it began, and the optimiser."""
    model = net()
    if host:
        host_step(model)
    optimizer = sgd(model)
    train(model, optimizer)
    before = snapshot(model)
    train(model, optimizer, seed=2)
    return model, before, optimizer


def effective(model: nn.Module, name: str) -> Tensor:
    """The weight that the layer multiplies with."""
    module, own = owner_of(model, name)
    raw = getattr(module, f"{own}_orig", None)
    return (getattr(module, own) if raw is None else raw * getattr(module, f"{own}_mask")).detach()


def methods(model: nn.Module) -> list[int]:
    """How many pruning methods each weight has."""
    hooks = [[hook for hook in owner_of(model, name)[0]._forward_pre_hooks.values()] for name in NAMES]
    return [sum(len(hook) if isinstance(hook, prune.PruningContainer) else 1 for hook in some) for some in hooks]


def still(model: nn.Module, before: dict[str, Tensor], masks: Masks, count: int) -> set[tuple[str, int]]:
    """Slow reference: of all unpruned negative weights, those that moved least."""
    moved = [
        (abs(float(now) - float(was)), name, place)
        for name in NAMES
        for place, (now, was, alive) in enumerate(
            zip(effective(model, name).flatten(), before[name].flatten(), masks[name].flatten(), strict=True)
        )
        if alive and now < 0
    ]
    return {(name, place) for _, name, place in sorted(moved)[:count]}


def gone(old: Masks, new: Masks) -> set[tuple[str, int]]:
    return {(name, int(at)) for name in NAMES for at in (old[name] & ~new[name]).flatten().nonzero().flatten()}


def test_ap_is_one_more_call_of_torch() -> None:
    model, before, _ = in_training()
    old = Masks.of(model)
    expected = still(model, before, old, 20)
    scores = torch_prune.importance(model, before)
    prune.global_unstructured(list(scores), prune.L1Unstructured, importance_scores=scores, amount=20)
    new = Masks.of(model)
    assert list(scores) == [owner_of(model, name) for name in NAMES]
    assert gone(old, new) == expected
    assert not gone(new, old) and new.alive == old.alive - 20


def test_scores_are_infinite_where_ap_may_not_cut() -> None:
    model, before, _ = in_training()
    masks = Masks.of(model)
    for (module, own), values in torch_prune.importance(model, before).items():
        name = next(name for name in NAMES if owner_of(model, name) == (module, own))
        assert torch.equal(values.isfinite(), masks[name] & (effective(model, name) < 0))


@pytest.mark.parametrize("host", [True, False], ids=["under masks", "plain"])
def test_one_call_cuts_the_same(host: bool) -> None:
    model, before, _ = in_training(host)
    other = torch_prune.importance(copied(model), before)
    old = Masks.of(model)
    expected = still(model, before, old, 20)
    new = torch_prune.cut(model, before, 20)
    prune.global_unstructured(list(other), prune.L1Unstructured, importance_scores=other, amount=20)
    assert gone(old, new) == expected and new == Masks.of(model)
    for (module, own), name in zip(other, NAMES, strict=True):
        assert torch.equal(getattr(module, f"{own}_mask") != 0, new[name])


@pytest.mark.parametrize("among", ["negative", "positive", "any"])
@pytest.mark.parametrize("by", ["still", "magnitude", "random"])
def test_the_other_choices_cut_the_same_both_ways(among: Any, by: Any) -> None:
    model, before, _ = in_training()
    old = Masks.of(model)
    scores = torch_prune.importance(model, before, among, by, seed=3)
    new = torch_prune.cut(copied(model), before, 15, among, by, seed=3)
    prune.global_unstructured(list(scores), prune.L1Unstructured, importance_scores=scores, amount=15)
    assert Masks.of(model) == new and len(gone(old, new)) == 15


def test_dead_units_first_both_ways() -> None:
    model, before, _ = in_training()
    with torch.no_grad():
        model[0].bias[1] = -50.0  # never above zero
    batches = [torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(5))]
    old = Masks.of(model)
    scores = torch_prune.importance(model, before, by="dead", batches=batches)
    assert all(bool((score >= 0).all()) for score in scores.values())
    new = torch_prune.cut(copied(model), before, 3, by="dead", batches=batches)
    prune.global_unstructured(list(scores), prune.L1Unstructured, importance_scores=scores, amount=3)
    assert Masks.of(model) == new and {(name, place // 18) for name, place in gone(old, new)} == {("0.weight", 1)}


def test_of_equals_the_first_go() -> None:
    model = net()
    with torch.no_grad():
        for value in prunable(model).values():
            value.copy_(value.sign() / 4)
    before = {name: value - 1 for name, value in snapshot(model).items()}  # all have moved by 1, exactly
    new = torch_prune.cut(model, before, 7)
    negative = [(name, at) for name in NAMES for at, weight in enumerate((before[name] + 1).flatten()) if weight < 0]
    assert gone(Masks.full(model), new) == set(negative[:7])


def test_ap_beside_a_pipeline_cuts_the_same() -> None:
    first, other = net(), net()
    ap = ActivateWhilePruning(other, share=0.1)
    ap.begin_round()
    before = snapshot(first)
    for model in (first, other):
        train(model, sgd(model))
        host_step(model)
    assert ap.step() == torch_prune.cut(first, before, int(0.1 * SIZE))
    assert Masks.of(first) == Masks.of(other)


def test_zeros_hold_for_a_hundred_steps() -> None:
    model, before, optimizer = in_training()
    masks = torch_prune.cut(model, before, 20)
    for steps in (1, 99):
        train(model, optimizer, steps)
        assert all(torch.equal(effective(model, name) != 0, masks[name]) for name in NAMES)


def test_the_snapshot_is_of_the_masked_weight() -> None:
    model, _, optimizer = in_training()
    with torch.no_grad():
        model[0].weight_orig += 1.0  # it drifts where it is masked, too
    train(model, optimizer)
    assert all(torch.equal(value, effective(model, name)) for name, value in snapshot(model).items())


def test_containers_do_not_grow() -> None:
    model = net()
    optimizer = sgd(model)
    alive = SIZE
    for seed in range(5):
        before = snapshot(model)
        train(model, optimizer, seed=seed)
        host_step(model, 10)
        torch_prune.cut(model, before, 5)
        alive -= 15
        assert methods(model) == [1, 1, 1] and Masks.of(model).alive == alive


def test_the_parameters_stay_the_same_objects() -> None:
    model, before, optimizer = in_training()
    old = {name: (tensor, tensor.detach().clone()) for name, tensor in prunable(model).items()}
    masks = torch_prune.cut(model, before, 20)
    for name, tensor in prunable(model).items():
        assert tensor is old[name][0] and tensor.requires_grad
        assert torch.equal(tensor.detach()[masks[name]], old[name][1][masks[name]])
    first = model[0].weight_orig.detach().clone()
    train(model, optimizer)
    assert not torch.equal(model[0].weight_orig, first)  # the optimiser still moves it


def test_a_model_just_cut_can_be_copied() -> None:
    model, before, _ = in_training()
    masks = torch_prune.cut(model, before, 20)
    other = copy.deepcopy(model)
    x = torch.ones(1, 2, 6, 6)
    assert torch.equal(other(x), model(x)) and Masks.of(other) == masks
    commit(other, Masks({"0.weight": torch.zeros_like(masks["0.weight"])}))
    assert Masks.of(model) == masks  # the copy has its own masks


def test_finish_leaves_a_plain_model() -> None:
    model, before, optimizer = in_training()
    prune.l1_unstructured(model[5], "bias", amount=1)
    masks = torch_prune.cut(model, before, 20)
    x = torch.ones(2, 2, 6, 6)
    expected = model(x)
    assert torch_prune.finish(model) == masks
    assert set(model.state_dict()) == set(net().state_dict()) - {"5.bias"} | {"5.bias_orig", "5.bias_mask"}
    assert not any(torch_prune.is_under(*owner_of(model, name)) for name in NAMES)
    assert torch.equal(model(x), expected) and Masks.of(model) == masks
    with masks.held(model, optimizer):
        train(model, optimizer, 100)
    assert Masks.of(model) == masks
    assert int((model[5].bias == 0).sum()) == 1  # the pruned bias has not come back
    assert len(torch_prune.finish(model)) == 0  # nothing is left to do
    prune.remove(model[5], "bias")
    assert set(model.state_dict()) == set(net().state_dict()) and not prune.is_pruned(model)


def test_commit_holds_plain_weights_as_zeros() -> None:
    model = net()
    masks = Masks({"5.weight": torch.arange(48).reshape(3, 16) % 3 > 0})
    weight = model[5].weight
    old = weight.detach().clone()
    commit(model, masks)
    assert model[5].weight is weight and not prune.is_pruned(model)
    assert torch.equal(weight.detach(), old * masks["5.weight"])


def test_commit_reaches_a_mask_of_somebody_elses() -> None:
    model = net()
    model[5].register_buffer("weight_mask", torch.ones(3, 16))  # a layer that multiplies by itself
    old = model[5].weight.detach().clone()
    commit(model, Masks({"5.weight": torch.zeros(3, 16, dtype=torch.bool)}))
    assert not model[5].weight_mask.any() and torch.equal(model[5].weight, old)
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, snapshot(model), 1), "5.weight", "another library")


@given(share=st.floats(0, 1), again=st.floats(0, 1), seed=st.integers(0, 99), under=st.sets(st.sampled_from(NAMES)))
@settings(max_examples=30)
def test_commit_is_an_and(share: float, again: float, seed: int, under: set[str]) -> None:
    model = net()
    for name in under:
        prune.random_unstructured(*owner_of(model, name), amount=share)
    numbers = torch.Generator().manual_seed(seed)
    masks = Masks(
        {name: torch.rand(tensor.shape, generator=numbers) < again for name, tensor in Masks.full(model).items()}
    )
    expected = Masks.of(model) & masks
    for _ in range(2):  # the second changes nothing
        commit(model, masks)
        assert Masks.of(model) == expected
        assert all(torch.equal(effective(model, name) != 0, expected[name]) for name in NAMES)
    assert {name for name in NAMES if torch_prune.is_under(*owner_of(model, name))} == under


def test_frozen_weights_stay_frozen() -> None:
    model, before, _ = in_training()
    model.requires_grad_(False)
    torch_prune.cut(model, before, 20)
    assert not any(param.requires_grad for param in model.parameters())
    torch_prune.finish(model)
    assert not any(param.requires_grad for param in model.parameters())


def test_half_precision() -> None:
    model = net().to(torch.bfloat16)
    before = snapshot(model)
    with torch.no_grad():
        for value in prunable(model).values():
            value.mul_(1.5)
    masks = torch_prune.cut(model, before, 20)
    assert masks == Masks.of(model) and masks.alive == SIZE - 20
    assert model(torch.ones(1, 2, 6, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("host", [True, False], ids=["under masks", "plain"])
def test_masks_of_another_model_change_nothing(host: bool) -> None:
    model, before, _ = in_training(host)
    first = {"0.weight": torch.zeros(4, 2, 3, 3, dtype=torch.bool)}
    unknown = Masks(first | {"7.weight": torch.ones(3, 16, dtype=torch.bool)})
    other_shape = Masks(first | {"5.weight": torch.ones(3, 15, dtype=torch.bool)})
    with assert_untouched(model):
        assert_raises(WrongModel, lambda: commit(model, unknown), "7.weight")
        assert_raises(WrongModel, lambda: commit(model, other_shape), "5.weight", "(3, 15)")
        short = {name: value for name, value in before.items() if name != "2.weight"}
        assert_raises(WrongModel, lambda: torch_prune.cut(model, short, 1), "2.weight")
        assert_raises(WrongModel, lambda: torch_prune.importance(model, short), "2.weight")


@pytest.mark.parametrize("count", [-1, 1.5, True, "3", SIZE])
def test_bad_counts_change_nothing(count: Any) -> None:
    model, before, _ = in_training()
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, count))


def test_no_weights_cut_is_no_cut() -> None:
    model, before, _ = in_training()
    old = Masks.of(model)
    assert torch_prune.cut(model, before, 0) == old == Masks.of(model)
    commit(model, Masks({}))
    assert Masks.of(model) == old


def test_weights_that_a_zero_does_not_reach_are_refused() -> None:
    model = net()
    nn.utils.parametrizations.weight_norm(model[5])
    masks = Masks({"0.weight": torch.zeros(4, 2, 3, 3, dtype=torch.bool), "5.weight": torch.zeros(3, 16) > 0})
    with assert_untouched(model):
        assert_raises(BadValue, lambda: commit(model, masks), "5.weight")


def test_wrapped_models_are_refused() -> None:
    model = net()
    before, masks = snapshot(model), Masks.full(model)
    wrapped = nn.DataParallel(model)
    for call in (
        lambda: commit(wrapped, masks),
        lambda: torch_prune.cut(wrapped, before, 1),
        lambda: torch_prune.importance(wrapped, before),
        lambda: torch_prune.finish(wrapped),
    ):
        assert_raises(CannotLook, call, "model.module")


def test_bad_models_and_words_change_nothing() -> None:
    model, before, _ = in_training()
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, 1, among="zero"), "among")
        assert_raises(BadValue, lambda: torch_prune.importance(model, before, by="luck"), "by")
        assert_raises(NothingPicked, lambda: torch_prune.cut(model, before, 1, keep=lambda *_: False))
    with torch.no_grad():
        model[5].weight_orig.fill_(torch.nan)
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, 1), "5.weight", "finite")


def test_attention_is_masked_where_it_reads() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    before = {name: value + 0.1 * torch.randn_like(value) for name, value in snapshot(model).items()}
    x = torch.randn(2, 3, 4)
    masks = torch_prune.cut(model, before, 10, keep=lambda name, module: name == "in_proj_weight")
    got = model(x, x, x)[0]
    torch_prune.finish(model)
    assert list(masks) == ["in_proj_weight"] and torch.equal(model(x, x, x)[0], got)
    assert int((model.in_proj_weight == 0).sum()) == 10


class Windows(nn.Module):
    """One attention over windows of four pixels, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = ShiftedWindowAttention(4, [2, 2], [0, 0], num_heads=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]  # type: ignore[no-any-return]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


OUT_OF_REACH = [
    (Windows, "attention.qkv.weight", ["ShiftedWindowAttention", "without calling qkv"]),
    (Windows, "attention.proj.weight", ["ShiftedWindowAttention", "without calling proj"]),
    (Attention, "attention.out_proj.weight", ["MultiheadAttention", "without calling out_proj"]),
    (Tied, "first.weight", ["tied"]),
]


@pytest.mark.parametrize(("kind", "name", "words"), OUT_OF_REACH, ids=[name for _, name, _ in OUT_OF_REACH])
def test_weights_that_a_mask_does_not_reach_are_refused(kind: type[nn.Module], name: str, words: list[str]) -> None:
    model = kind()
    before = {name: values - 1 for name, values in snapshot(model).items()}
    alone = lambda weight, module: weight == name  # noqa: E731
    masks = Masks({name: torch.zeros_like(before[name], dtype=torch.bool)})
    with assert_untouched(model):
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, 1, "any", keep=alone), name, "keep=", *words)
        assert_raises(BadValue, lambda: torch_prune.importance(model, before, "any", keep=alone), name, *words)
    prune.identity(*owner_of(model, name))
    with assert_untouched(model):
        assert_raises(BadValue, lambda: commit(model, masks), name, *words)
        assert_raises(BadValue, lambda: torch_prune.cut(model, before, 1, "any", keep=alone), name, *words)
    plain = kind()
    commit(plain, masks)  # zeros in place reach everybody
    assert not plain.get_parameter(name).any()


def test_what_is_out_of_reach_can_be_kept() -> None:
    model = Windows()
    before = {name: values - 1 for name, values in snapshot(model).items()}
    masks = torch_prune.cut(model, before, 2, "any", keep=lambda name, module: name == "head.weight")
    assert int((model.head.weight == 0).sum()) == 2 and list(masks) == ["head.weight"]
    bare = ShiftedWindowAttention(4, [2, 2], [0, 0], num_heads=2)
    refused = assert_raises(BadValue, lambda: torch_prune.cut(bare, snapshot(bare), 1, "any", "magnitude"))
    assert "qkv.weight" in str(refused)


def test_weights_that_lose_nothing_stay_plain() -> None:
    model = net()
    prune.identity(model[2], "weight")
    before = snapshot(model)
    with torch.no_grad():
        model[0].weight.add_(1)  # the others have not moved
    masks = torch_prune.cut(model, before, 4, "any")
    assert [name for name in NAMES if torch_prune.is_under(*owner_of(model, name))] == ["0.weight", "2.weight"]
    assert masks.alive == SIZE - 4 and methods(model) == [1, 1, 0]


def test_nothing_has_moved() -> None:
    model = net()
    with assert_untouched(model):
        for call in (torch_prune.importance, lambda *given: torch_prune.cut(*given, 1)):
            assert_raises(BadValue, lambda call=call: call(model, snapshot(model)), "weight has moved", "train first")


def copied(model: nn.Sequential) -> nn.Sequential:
    """A deep copy; torch refuses one while a weight computed in training is there."""
    with torch.no_grad():
        model(torch.zeros(1, 2, 6, 6))
    return copy.deepcopy(model)
