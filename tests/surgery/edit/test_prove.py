"""Proofs: an edit with another effect than intended is reverted, and a proof leaves no trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import surgery
from surgery import transforms
from surgery.edit import prove as proof
from surgery.edit.strategy import decide
from surgery.look.example import Example
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import assert_raises, assert_same_function, assert_untouched
from tests.models import picture
from tests.surgery.edit.proofs import blocks, refused


def prove(model: nn.Module, rule: Rule) -> None:
    """Prove the rewriting a rule needs, without editing."""
    sites = surgery.find_sites(model, picture())
    proof.prove_rewrites(model, decide(model, surgery.make_plan(sites, rule)), sites.example)


class Peeking(nn.Module):
    """Inspects its activations, and takes another branch if there are more of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if hasattr(self, "act_1") else 2.0
        return self.act(self.conv(self.act(x) * scale))


class FastPath(nn.Module):
    """Calls its activation only if it has hooks, like torch's encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x) if self.act._forward_pre_hooks else x.relu()


class TypeAsking(nn.Module):
    """Runs all children that are activations."""

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
    refused(Peeking(), surgery.erase(site="act 2/2"), "Peeking at the top has other outputs", "act 2/2")


def test_a_rewrite_that_reads_another_part_of_a_tensor_is_refused() -> None:
    class Slicing(Peeking):
        """Reads other channels, equally many, if it has more activations."""

        def forward(self, x: Tensor) -> Tensor:
            first = 1 if hasattr(self, "act_1") else 0
            return self.act(self.conv(self.act(x))[:, first : first + 2])

    refused(Slicing(), surgery.erase(site="act 2/2"), "Slicing at the top has other outputs", "act 2/2")


def test_a_rewrite_that_reads_another_constant_is_refused() -> None:
    class Choosing(Peeking):
        """Holds two tensors that are not buffers, and adds the second if it has more activations."""

        def __init__(self) -> None:
            super().__init__()
            self.tables = [torch.zeros(1), torch.ones(1)]

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(self.act(x)) + self.tables[hasattr(self, "act_1")])

    refused(Choosing(), surgery.erase(site="act 2/2"), "Choosing at the top has other outputs", "act 2/2")


def test_a_rewrite_that_changes_the_calls_is_refused_even_where_the_results_agree() -> None:
    refused(TypeAsking(), surgery.erase(site="act 2/2"), "other activation calls", "relu, relu became relu, relu, relu")


def test_an_edit_that_nobody_sees_unless_watched_is_refused() -> None:
    refused(FastPath(), surgery.erase(), "without hooks")


def test_an_activation_of_several_parts_is_one() -> None:
    surgery.activations.register("two", lambda: nn.Sequential(nn.ReLU(), nn.GELU()))
    report = surgery.transform(models.ResidualNet(), surgery.swap("two", block="*", position=1), picture())[1]
    assert [site.activation for site in report.after] == ["relu", "two", "relu", "two", "relu"]


def test_a_proof_leaves_no_trace() -> None:
    for kind in (models.ResidualNet, models.ThriceInPlace, models.WhileLoop, models.Stateful):
        model = kind()
        with assert_untouched(model):
            surgery.transform(model, surgery.erase(site=str(surgery.find_sites(model, kind.example)[-1])), kind.example)


class Steered(nn.Module):
    """The control flow depends on a value in a buffer, so a look needs real tensors."""

    def __init__(self, doubled: bool) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.register_buffer("doubled", torch.tensor(doubled))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x - 0.2) - 0.1
        return self.act(x * 2.0 if self.doubled and hasattr(self, "act_1") else x)


class Flagged(nn.Module):
    """An attribute decides whether its second call can be separated."""

    def __init__(self, doubled: bool) -> None:
        super().__init__()
        self.act, self.doubled = nn.ReLU(), doubled

    forward = Steered.forward


class Fused(nn.Module):
    """An attribute decides whether its activation is called without hooks."""

    def __init__(self, doubled: bool) -> None:
        super().__init__()
        self.act, self.fused = nn.ReLU(), doubled

    def forward(self, x: Tensor) -> Tensor:
        watched = self.act._forward_hooks or self.act._forward_pre_hooks
        return x.clamp(min=0.1) if self.fused and not watched else self.act(x)


@pytest.mark.parametrize("kind", [Flagged, Steered, Fused])
def test_what_is_refused_alone_is_refused_behind_others_of_its_class(kind: Callable[[bool], nn.Module]) -> None:
    rule = surgery.swap("silu")
    surgery.transform(blocks(kind(False)), rule, picture())
    for model in (blocks(kind(True)), blocks(kind(False), kind(True)), blocks(kind(False), kind(False), kind(True))):
        refused(model, rule, f"{kind.__name__} at {len(model) - 1}")


def test_only_the_calls_that_cannot_stand_alone_are_blamed() -> None:
    for rule in (surgery.swap("silu"), surgery.swap("silu", turn=2)):
        transform = functools.partial(surgery.transform_, Flagged(True), rule, picture())
        error = assert_raises(surgery.NotProved, transform)
        assert [str(site) for site in error.sites] == ["act 2/2"]


# Arguments that cannot be given again


class Head(nn.Module):
    """Passes its input to an object among its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, then: Any) -> Tensor:
        return functional.relu(applied(then, functional.relu(self.fc(x)) - 0.1))


def applied(then: Any, x: Tensor) -> Tensor:
    match then:
        case list() | nn.ModuleList():
            return then[0](x)
        case dict():
            return then["then"](x)
        case Parcel():
            return then.inside(x)
    return then(x)


@dataclass
class Parcel:
    inside: Any


class Giving(nn.Module):
    """Passes one of its children to another child, wrapped in several ways."""

    def __init__(self, wrap: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.head, self.given, self.wrap = Head(), nn.Linear(4, 4), wrap

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x, self.wrap(self.given))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: module,
        lambda module: [module],
        lambda module: {"then": module},
        lambda module: nn.ModuleList([module]),
        lambda module: Parcel(module),
        lambda module: lambda x: module(x),
        lambda module: module.forward,
        lambda module: functools.partial(nn.Module.__call__, module),
    ],
    ids=["module", "list", "dict", "module list", "dataclass", "closure", "method", "partial"],
)
def test_a_module_among_the_arguments_runs_with_all_that_it_belongs_to(wrap: Callable[[nn.Module], Any]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), Giving(wrap)), torch.randn(2, 4)
    with assert_untouched(model):
        edited, report = surgery.transform(model, surgery.erase(), x)
    head, given = model[1].head, model[1].given
    with torch.no_grad():
        assert torch.equal(edited(x), given(head.fc(model[0](x)) - 0.1))
    assert [site.owner for site in report.before] == ["1.head", "1.head"]


def test_only_the_nearest_module_that_owns_all_is_run() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Giving(lambda module: module))
    given = proof.recorded_arguments(model, Example.of(torch.randn(2, 4), model), {"1.head": [("eval", "train")]})
    assert {key: value.at for key, value in given.items()} == {("1.head", "eval"): "1", ("1.head", "train"): "1"}


class TrainsElsewhere(nn.Module):
    """Called in one mode; in the other, another of its methods is called."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) - 0.1)

    def trained(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) * (2.0 if hasattr(self, "act_1") else 1.0))


def test_a_mode_in_which_another_method_is_called_is_proved_from_around() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = TrainsElsewhere()

        def forward(self, x: Tensor) -> Tensor:
            return self.part.trained(x) if self.training else self.part(x)

    refused(Around(), surgery.swap("silu"), "TrainsElsewhere at part", "train mode", error=surgery.NotProved)


def test_numbers_that_are_all_alike_prove_nothing_so_others_are_drawn() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    nn.init.zeros_(module[0].weight)
    solid = proof.copy_with_values(module, "eval")
    assert not any((param == param.flatten()[0]).all() for param in solid.parameters())
    assert module[0].weight.eq(0).all()


def test_rewriting_alone_changes_nothing() -> None:
    for kind in (models.ResidualNet, models.PreActNet, models.WhileLoop, models.SharedInComprehension):
        model = kind()
        with assert_untouched(model):
            prove(model, surgery.erase())


def test_a_model_on_meta_is_proved_as_far_as_it_can_be() -> None:
    with torch.device("meta"):
        peeking = Peeking()
    refused(peeking, surgery.erase(site="act 2/2"), "other outputs")


def test_what_the_plan_said_is_compared_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module = transforms
    original = module.carry_out
    monkeypatch.setattr(module, "carry_out", lambda model, decisions, new: original(model, decisions[:-1], new))
    refused(models.BottleneckNet(), surgery.erase_relu(), "After the edit", "5 calls", "4 calls")


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
