"""A structural step is an entry of the history: saved, loaded and replayed on a fresh model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

import surgery
from pruning.hosts import torch_pruning as host
from surgery.errors import BadFile, CannotEdit, WrongModel
from surgery.history.history import steps_of
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.pruning.hosts.torch_pruning.marked_net import APART, IMAGES, Net, Slopes, pruner_of, train


def test_a_frozen_model_is_cut_again_as_the_saved_one_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Slopes()
    fresh = copy.deepcopy(model).requires_grad_(False)
    host.step(pruner_of(model), example=IMAGES)
    surgery.save(model, tmp_path)
    loaded = surgery.load(tmp_path, model=fresh)
    assert_bit_equal([loaded.eval()(IMAGES)], [model.eval()(IMAGES)])
    assert not any(param.requires_grad for param in loaded.parameters())


def cut_then_edit(model: nn.Module) -> None:
    host.step(pruner_of(model), example=IMAGES)
    surgery.transform_(model, surgery.swap("prelu"), IMAGES)


def edit_then_cut(model: nn.Module) -> None:
    surgery.transform_(model, [surgery.erase(site="relu 2/6"), surgery.swap("npwlu", remaining=True)], IMAGES)
    host.step(pruner_of(model), example=IMAGES)


def edit_cut_cut(model: nn.Module) -> None:
    surgery.transform_(model, surgery.swap("prelu", site="relu 5/6"), IMAGES)
    pruner = pruner_of(model, iterative_steps=2, pruning_ratio=0.6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        host.step(pruner, optimizer, IMAGES)
        train(model.train(), optimizer)


def cut_twice_with_shared_tables(model: nn.Module) -> None:
    surgery.transform_(model, surgery.swap("npwlu", per="layer", site=APART), IMAGES)
    for _ in range(2):
        host.step(pruner_of(model, ignored_layers=host.ignored(model), pruning_ratio=0.3), example=IMAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("make", [cut_then_edit, edit_then_cut, edit_cut_cut, cut_twice_with_shared_tables])
def test_a_pruned_model_is_saved_and_loaded(net: Net, make: Callable[[nn.Module], None], tmp_path: Path) -> None:
    make(net)
    surgery.save(net, tmp_path)
    fresh = Net()
    random = torch.get_rng_state()
    loaded = surgery.load(tmp_path, fresh)
    assert loaded is fresh and all(module.training for module in fresh.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert list(fresh.state_dict()) == list(net.state_dict())
    assert_bit_equal(fresh.state_dict().values(), net.state_dict().values())
    assert_bit_equal([fresh.eval()(IMAGES)], [net.eval()(IMAGES)])
    assert [(step.kind, step.data) for step in surgery.history_of(fresh)] == [
        (step.kind, step.data) for step in surgery.history_of(net)
    ]
    surgery.save(fresh, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "surgery.json").read_text()) == json.loads(
        (tmp_path / "surgery.json").read_text()
    )


def test_two_steps_are_two_entries(net: Net) -> None:
    pruner = pruner_of(net, iterative_steps=2)
    for _ in range(2):
        host.step(pruner, example=IMAGES)
    steps = surgery.history_of(net)
    assert [step.kind for step in steps] == ["torch_pruning"] * 2
    assert steps[0].data["history"] + steps[1].data["history"] == json.loads(json.dumps(pruner.pruning_history()))
    assert steps[0].fingerprint != steps[1].fingerprint
    assert_raises(CannotEdit, lambda: surgery.undo(net), "torch_pruning", "the model as it was before that step")


def test_a_step_that_removes_nothing_is_no_step(net: Net) -> None:
    assert len(host.step(pruner_of(net, pruning_ratio=0.0), example=IMAGES)) == 0
    assert surgery.history_of(net) == ()


def test_a_saved_step_does_not_fit_another_model(net: Net, tmp_path: Path) -> None:
    host.step(pruner_of(net), example=IMAGES)
    surgery.save(net, tmp_path)
    other = Net()
    other.body = nn.Conv2d(8, 8, 1, bias=False)
    with assert_untouched(other):
        assert_raises(WrongModel, lambda: surgery.load(tmp_path, other), "not the model that was pruned")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.pop("history"), "'history'"),
        (lambda data: data["history"][0].append(1), "damaged"),
        (lambda data: data["history"][0][2].append("x"), "damaged"),
        (lambda data: data["customised"].append("Mine"), "Mine"),
    ],
    ids=["gone", "longer", "text", "customised"],
)
def test_a_damaged_step_is_refused(net: Net, tmp_path: Path, spoil: Callable[[Any], Any], words: str) -> None:
    host.step(pruner_of(net), example=IMAGES)
    spoil(steps_of(net)[0].data)
    surgery.save(net, tmp_path)
    fresh = Net()
    with assert_untouched(fresh):
        assert_raises(BadFile, lambda: surgery.load(tmp_path, fresh), words)


class Attending(nn.Module):
    """Attention that reads its number of heads from an attribute, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.num_heads = nn.Conv2d(3, 8, 1), nn.ReLU(), 4
        self.query, self.key, self.value, self.head = (nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8),
                                                       nn.Linear(8, 3))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x)).flatten(2).transpose(1, 2)
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = self.head(mixed.mean(1))
        return result


@pytest.mark.slow
@pytest.mark.parametrize("erased", [False, True])
def test_heads_that_were_set_by_hand_after_a_step_come_back(erased: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attending()
    heads = {model.query: 4, model.key: 4, model.value: 4}
    pruner = tp.pruner.BasePruner(
        model, IMAGES, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=[model.head],
        num_heads=heads, prune_num_heads=True, head_pruning_ratio=0.5,
    )  # fmt: skip
    host.step(pruner, example=IMAGES)
    model.num_heads = pruner.num_heads[model.query]
    assert model.num_heads == 2 and model.query.out_features == 2
    if erased:
        surgery.transform_(model, surgery.erase(), IMAGES)
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Attending())
    assert fresh.num_heads == 2
    assert_bit_equal([fresh.eval()(IMAGES)], [model.eval()(IMAGES)])
    surgery.save(fresh, tmp_path / "again")
    assert surgery.load(tmp_path / "again", Attending()).num_heads == 2


def test_a_new_head_after_a_step_comes_back(net: Net, tmp_path: Path) -> None:
    host.step(pruner_of(net), example=IMAGES)
    net.head = nn.Linear(net.head.in_features, 7)
    surgery.save(net, tmp_path)
    fresh = Net()
    with assert_untouched(fresh):
        assert_raises(WrongModel, lambda: surgery.load(tmp_path, fresh))
    fresh.head = nn.Linear(16, 7)
    assert_bit_equal([surgery.load(tmp_path, fresh).eval()(IMAGES)], [net.eval()(IMAGES)])
