"""Proving: what does not do exactly what it should is taken back, and the proof itself leaves no trace."""

from __future__ import annotations

import functools
import sys
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery import proof
from surgery.decide import decide
from surgery.rules import Rule
from tests import models
from tests.asserts import assert_raises, assert_same_function, assert_untouched
from tests.models import picture


def refused(model: nn.Module, rule: Rule, *words: str, error: type[surgery.SurgeryError] = surgery.NotProved) -> None:
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(model):
            assert_raises(error, functools.partial(verb, model, rule, picture()), *words)
    assert surgery.history_of(model) == ()


@pytest.fixture(autouse=True)
def nothing_proved_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_proved", WeakKeyDictionary())


def prove(model: nn.Module, rule: Rule) -> None:
    """Prove the rewriting a rule needs, without editing."""
    sites = surgery.find_sites(model, picture())
    proof.prove_rewrites(model, decide(model, surgery.make_plan(sites, rule)), sites.example)


class Peeking(nn.Module):
    """Looks at what its activation is, and goes another way if there are more of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if hasattr(self, "act_1") else 2.0
        return self.act(self.conv(self.act(x) * scale))


class FastPath(nn.Module):
    """Calls its activation only where somebody has hooks on it, as torch's encoder layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x) if self.act._forward_pre_hooks else x.relu()


class TypeAsking(nn.Module):
    """Runs whatever children are activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(self.act(x)))
        for name in dir(self):
            if name.startswith("act_"):
                x = getattr(self, name)(x)
        return x


def test_a_rewrite_that_changes_results_is_refused() -> None:
    refused(Peeking(), surgery.erase(site="act 2/2"), "Peeking at the top has other results", "act 2/2")


def test_a_rewrite_that_changes_the_calls_is_refused_even_where_the_results_agree() -> None:
    refused(TypeAsking(), surgery.erase(site="act 2/2"), "other activation calls", "relu, relu became relu, relu, relu")


def test_an_edit_that_nobody_sees_unless_watched_is_refused() -> None:
    refused(FastPath(), surgery.erase(), "when nobody watches it")


def test_an_activation_of_several_parts_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = surgery.activations.catalogue
    monkeypatch.setattr(catalogue, "_BY_NAME", dict(catalogue._BY_NAME))
    surgery.activations.register("two", lambda: nn.Sequential(nn.ReLU(), nn.GELU()))
    report = surgery.transform(models.ResidualNet(), surgery.swap("two", block="*", position=1), picture())[1]
    assert [site.activation for site in report.after] == ["relu", "two", "relu", "two", "relu"]


def test_a_proof_leaves_no_trace() -> None:
    for kind in (models.ResidualNet, models.ThriceInPlace, models.WhileLoop, models.Stateful):
        model = kind()
        with assert_untouched(model):
            surgery.transform(model, surgery.erase(site=str(surgery.find_sites(model, kind.example)[-1])), kind.example)


def test_a_class_is_proved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[str] = []
    original = proof._prove

    def counted(model: nn.Module, path: str, *rest: Any) -> None:
        proved.append(path)
        original(model, path, *rest)

    monkeypatch.setattr(proof, "_prove", counted)
    surgery.transform(models.ResidualNet(), surgery.erase(block="layer1.0", position=2), picture())
    assert proved == ["layer1.0", "layer1.0"]  # in eval and in train mode
    surgery.transform(models.ResidualNet(), surgery.erase(block="layer1.0", position=2), picture())
    assert len(proved) == 2
    surgery.transform(models.ResidualNet(), surgery.erase(block="layer1.0", position=1), picture())
    assert len(proved) == 4


def test_numbers_that_are_all_alike_prove_nothing_so_others_are_drawn() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    nn.init.zeros_(module[0].weight)
    solid = proof.solid_twin(module, "eval")
    assert not any((one == one.flatten()[0]).all() for one in solid.parameters())
    assert module[0].weight.eq(0).all()


def test_rewriting_alone_changes_nothing() -> None:
    for kind in (models.ResidualNet, models.PreActNet, models.WhileLoop, models.SharedInComprehension):
        model = kind()
        with assert_untouched(model):
            prove(model, surgery.erase())


def test_a_model_on_meta_is_proved_as_far_as_it_can_be() -> None:
    with torch.device("meta"):
        peeking = Peeking()
    refused(peeking, surgery.erase(site="act 2/2"), "other results")


def test_what_the_plan_said_is_compared_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["surgery.transform"]
    original = module.carry_out
    monkeypatch.setattr(module, "carry_out", lambda model, decisions, new: original(model, decisions[:-1], new))
    refused(models.BottleneckNet(), surgery.erase_relu(), "Looking again", "5 calls", "4 calls")


def test_training_mode_is_proved_too() -> None:
    class TrainPeeking(Peeking):
        def forward(self, x: Tensor) -> Tensor:
            scale = 2.0 if self.training and hasattr(self, "act_1") else 1.0
            return self.act(self.conv(self.act(x) * scale))

    refused(TrainPeeking(), surgery.erase(site="act 2/2"), "in train mode")


def test_an_identical_activation_is_the_same_function() -> None:
    model = models.ResidualNet()
    edited, _ = surgery.transform(model, surgery.swap("relu", position=2), picture())
    assert_same_function(edited, model, picture())


class Twice(nn.Module):
    """One ReLU, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(x)))


def test_a_train_method_that_returns_nothing_does_not_matter() -> None:
    class Forgetful(Twice):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)

    model = Forgetful()
    model.train(False)
    assert len(surgery.transform_(model, surgery.erase(site="act 2/2"), picture()).after) == 1


def test_a_mode_that_raises_half_way_is_not_proved() -> None:
    class WantsTargets(Twice):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(self.act(x)))
            if self.training:
                raise ValueError("training needs targets")
            return x

    report = surgery.transform_(WantsTargets(), surgery.erase(site="act 2/2"), picture())
    assert [site.modes for site in report.after] == [("eval",)]
