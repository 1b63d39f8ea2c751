"""References: a call that takes its activation from a list, a variable or a method gets the new one."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import CannotEdit
from surgery.look.references import reseated
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched

ROWS = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Held(nn.Module):
    """Linear, activation, linear; the activation is also held elsewhere, and called from there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 8), nn.LeakyReLU(0.25), nn.Linear(8, 4)
        self.held: Any = self.hold()

    def hold(self) -> Any:
        raise NotImplementedError

    def between(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class ListWalk(Held):
    def hold(self) -> Any:
        return [self.a, self.act, self.b]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.held:
            x = layer(x)
        return x


class TupleItem(Held):
    def hold(self) -> Any:
        return (self.a, self.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.held[1](self.held[0](x)))


class DictItem(Held):
    def hold(self) -> Any:
        return {"act": self.act}

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.held["act"](self.a(x)))


class NestedList(Held):
    def hold(self) -> Any:
        return [[self.a, [self.act]]]

    def forward(self, x: Tensor) -> Tensor:
        first, (act,) = self.held[0]
        return self.b(act(first(x)))


class BoundForward(Held):
    def hold(self) -> Any:
        return self.act.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.held(self.a(x)))


class SpeltForward(Held):
    def hold(self) -> Any:
        return None

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act.forward(self.a(x)))


class PartialModule(Held):
    def hold(self) -> Any:
        return functools.partial(functools.partial(self.act))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.held(self.a(x)))


class Unregistered(Held):
    def hold(self) -> Any:
        object.__setattr__(self, "alias", self.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.alias(self.a(x)))


HOLDERS = (ListWalk, TupleItem, DictItem, NestedList, BoundForward, SpeltForward, PartialModule, Unregistered)


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_call_past_the_registered_name_gets_the_new_activation(kind: type[Held]) -> None:
    model = kind()
    (site,) = surgery.find_sites(model, ROWS)
    assert (site.module, site.activation, site.by_reference, site.locked) == ("act", "leaky_relu", True, None)

    erased, _ = surgery.transform(model, surgery.erase(), ROWS)
    assert torch.equal(erased(ROWS), model.b(model.a(ROWS)))
    assert erased.act is not None
    assert len(surgery.find_sites(erased, ROWS)) == 0

    swapped, _ = surgery.transform(model, surgery.swap("prelu"), ROWS)
    assert_bit_equal([swapped(ROWS)], [model(ROWS)])
    slope = next(p for name, p in swapped.named_parameters() if name not in dict(model.named_parameters()))
    with torch.no_grad():
        slope.fill_(-1.0)
    assert torch.equal(swapped(ROWS), model.b(model.a(ROWS).abs()))
    assert torch.equal(copy.deepcopy(swapped)(ROWS), swapped(ROWS))
    assert_bit_equal([surgery.undo(swapped)(ROWS)], [model(ROWS)])


class NameAndList(Held):
    """Called once by its name, once out of a list."""

    def hold(self) -> Any:
        return [self.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.held[0](self.a(x))))


@pytest.mark.parametrize("turn", [1, 2])
def test_calls_by_name_and_from_a_list_are_told_apart(turn: int) -> None:
    model = NameAndList()
    sites = surgery.find_sites(model, ROWS)
    assert [site.by_reference for site in sites] == [True, False]
    edited, _ = surgery.transform(model, surgery.erase(site=str(sites[turn - 1])), ROWS)
    a, b, act = model.a, model.b, model.act
    assert torch.equal(edited(ROWS), act(b(a(ROWS))) if turn == 1 else b(act(a(ROWS))))


class Keyed(Held):
    """Steps whose code does not show what they call."""

    def hold(self) -> Any:
        return {"act": lambda x: self.act(x)}

    def forward(self, x: Tensor) -> Tensor:
        return self.b(next(map(self.act.forward, [self.a(x)])))


def test_a_reference_that_cannot_be_edited_is_refused_with_what_to_try() -> None:
    model = Keyed()
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.erase(), ROWS), "act cannot", "nn.ModuleList"
        )


def test_by_its_name_an_activation_keeps_its_slot() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    assert [site.by_reference for site in surgery.find_sites(model, ROWS)] == [False]
    edited, _ = surgery.transform(model, surgery.swap("gelu"), ROWS)
    assert type(edited) is nn.Sequential


def test_reseating_gives_one_stand_in_to_all_names() -> None:
    model = nn.Sequential(nn.PReLU(), nn.Sequential(nn.Linear(2, 2)))
    model.again = model[0]  # type: ignore[assignment]
    model[1].inner = model[0]
    old = model[0]
    ((before, now, _),) = reseated(model)
    assert before is old and now is not old
    assert model[0] is now and model.again is now and model[1].inner is now
    assert now.weight is old.weight
    assert reseated(nn.ReLU()) == []


class Chosen(nn.Module):
    """Looks up what to do by the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.ReLU()
        self.scales: dict[nn.Module, float] = {self.act: 2.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) * self.scales[self.act]


def test_a_model_that_knows_its_activations_by_themselves_keeps_them() -> None:
    model = Chosen()
    (site,) = surgery.find_sites(model, ROWS)
    assert (site.path, site.by_reference) == ("act", True)
    edited, _ = surgery.transform(model, surgery.erase(), ROWS)
    assert torch.equal(edited(ROWS), model.fc(ROWS) * 2)


class Kept(nn.Module):
    """Linear, an activation that is not a module of the model, linear; `spelt` is how the code calls it."""

    def __init__(self, kept: Any, spelt: str) -> None:
        super().__init__()
        self.a, self.b, self.kept, self.spelt = nn.Linear(8, 8), nn.Linear(8, 4), kept, spelt

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.spelt == "attribute":
            return self.b(self.kept(x))
        if self.spelt == "item":
            return self.b(self.kept["act"](x))
        return self.b(self.kept[0](x))


TANH = functools.partial(F.gelu, approximate="tanh")


@pytest.mark.parametrize(
    ("kept", "spelt", "activation", "options"),
    [
        (TANH, "attribute", "gelu_tanh", {}),
        (functools.partial(TANH, approximate="none"), "attribute", "gelu", {}),
        ({"act": TANH}, "item", "gelu_tanh", {}),
        ([functools.partial(F.leaky_relu, negative_slope=0.25)], "first", "leaky_relu", {"negative_slope": 0.25}),
        (functools.partial(functools.partial(F.elu, alpha=0.5), inplace=True), "attribute", "elu", {"alpha": 0.5}),
        ([nn.CELU(0.5)], "first", "celu", {"alpha": 0.5}),
        ([nn.GELU("tanh")], "first", "gelu_tanh", {}),
        ({"act": functools.partial(nn.Hardtanh(-1.0, 2.0))}, "item", "hardtanh", {"min_val": -1.0, "max_val": 2.0}),
    ],
)
def test_activations_kept_beside_the_model_are_editable(
    kept: Any, spelt: str, activation: str, options: dict[str, float]
) -> None:
    model = Kept(kept, spelt)
    (site,) = surgery.find_sites(model, ROWS)
    assert (site.activation, dict(site.options), site.module, site.locked) == (activation, options, None, None)
    erased, _ = surgery.transform(model, surgery.erase(), ROWS)
    assert torch.equal(erased(ROWS), model.b(model.a(ROWS)))
    swapped, _ = surgery.transform(model, surgery.swap("silu"), ROWS)
    assert torch.equal(swapped(ROWS), model.b(F.silu(model.a(ROWS))))
    assert torch.equal(surgery.undo(swapped)(ROWS), model(ROWS))


class Quick(nn.Module):
    """Quick GELU under another name: the sigmoid is only a part of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def free_elu(x: Tensor, *, gain: float = 1.0) -> Tensor:
    return F.elu(x) * gain


@pytest.mark.parametrize(
    ("kept", "word"),
    [
        (functools.partial(free_elu, gain=2.0), "free_elu()"),
        (functools.partial(F.prelu, weight=torch.tensor([0.25])), "its slope"),
        (Quick(), "does more"),
    ],
)
def test_what_is_kept_and_does_more_than_an_activation_is_refused(kept: Any, word: str) -> None:
    model = Kept([kept], "first")
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.erase(role=("nonlinearity", "gate")), ROWS), word
        )


class Spelt(Held):
    """Calls its activation the way `spelling` says."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.acts = spelling, {"leaky": functools.partial(F.leaky_relu, negative_slope=0.25)}

    def hold(self) -> Any:
        return None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.spelling == "getattr":
            x = getattr(self, "act", nn.ReLU())(x)
        elif self.spelling == "choice":
            x = (self.act if self.spelling else self.b)(x)
        elif self.spelling == "key":
            x = self.acts["leaky"](x)
        elif self.spelling == "functions":
            x = (F.relu if self.spelling else F.gelu)(x)
        else:
            x = (act := F.relu)(x) + 0 * act(x)
        return self.b(x)


class FromTable(Held):
    """Takes its activation from torch's own table of children."""

    def hold(self) -> Any:
        return None

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self._modules["act"](self.a(x)))


@pytest.mark.parametrize("spelling", ["getattr", "choice", "key", "table"])
def test_other_spellings_of_what_is_called_are_editable(spelling: str) -> None:
    model = FromTable() if spelling == "table" else Spelt(spelling)
    swapped, _ = surgery.transform(model, surgery.swap("silu"), ROWS)
    assert torch.equal(swapped(ROWS), model.b(F.silu(model.a(ROWS))))


@pytest.mark.parametrize(("spelling", "word"), [("functions", "F.relu if"), ("walrus", "an assignment")])
def test_a_choice_of_functions_is_refused_by_name(spelling: str, word: str) -> None:
    model = Spelt(spelling)
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: surgery.transform_(model, surgery.swap("silu"), ROWS), word)
