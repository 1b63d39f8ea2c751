"""Traps: models that a careless edit would silently break."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.errors import CannotEdit, CannotLook, NotProved
from surgery.look import call_site as locate
from tests.asserts import assert_raises, assert_untouched


class PassesOfOthers(nn.Module):
    """A loop that calls methods and functions by one name: only every second pass is an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def shifted(self, x: Tensor) -> Tensor:
        return x - 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        for step in (self.shifted, F.relu, self.shifted, F.relu):
            x = step(x)
        return x


def test_a_call_whose_passes_cannot_be_counted_is_refused() -> None:
    model, rows = PassesOfOthers(), torch.rand(2, 4)
    second = surgery.find_sites(model, rows)[1]
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.erase(site=str(second)), rows), "iterations"
        )


def test_a_splice_of_another_call_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = PassesOfOthers(), torch.rand(2, 4)
    monkeypatch.setattr(locate.Locator, "_not_the_activation", lambda *_: None)
    second = surgery.find_sites(model, rows)[1]
    with assert_untouched(model):
        assert_raises(NotProved, lambda: surgery.transform_(model, surgery.erase(site=str(second)), rows), "intended")


class Overwriting(nn.Module):
    """An in-place ReLU whose input is seen by others: through a view, as a result, or because its result is dropped."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.fc, self.act, self.way = nn.Linear(4, 4), nn.ReLU(inplace=True), way

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = self.fc(x)
        if self.way == "dropped":
            self.act(a)
            return a
        if self.way == "part":
            self.act(a[:, :2])
            return self.fc(a)
        if self.way == "view":
            b = a.view(-1, 2, 2)
            return self.act(b).flatten(1) + self.fc(a)
        return a, self.act(a)


@pytest.mark.parametrize("way", ["dropped", "part", "view", "result"])
def test_an_overwritten_input_that_others_see_is_not_swapped(way: str) -> None:
    model, rows = Overwriting(way), torch.rand(2, 4)
    assert [site.overwrites for site in surgery.find_sites(model, rows)] == [True]
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: surgery.transform_(model, surgery.swap("gelu"), rows), "read again")


class WritesItsWeight(nn.Module):
    """A forward that writes into its own weight and its input, and needs numbers to run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.mul_(0.9)
            x.mul_(0.5)
        return self.act(self.fc(x)) * float(x.sum().item() > -1e9)


def test_weights_and_example_are_never_written_to() -> None:
    model, rows = WritesItsWeight(), torch.rand(2, 4)
    before = rows.clone()
    with assert_untouched(model):
        surgery.find_sites(model, rows)
        surgery.transform(model, surgery.swap("gelu"), rows)
    assert torch.equal(rows, before)


class ItsOwnCopy(nn.Module):
    """A module that returns itself as its copy."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(4), nn.ReLU()

    def __deepcopy__(self, memo: object) -> ItsOwnCopy:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


@pytest.mark.parametrize("model", [ItsOwnCopy(), nn.Sequential(ItsOwnCopy())], ids=["whole", "part"])
def test_a_module_that_is_its_own_copy_is_refused(model: nn.Module) -> None:
    rows = torch.rand(2, 4)
    with assert_untouched(model):
        assert_raises(CannotLook, lambda: surgery.find_sites(model, rows), "itself as its copy")
        assert_raises(CannotLook, lambda: surgery.transform(model, surgery.erase()), "itself as its copy")


class Alternating(nn.Module):
    """A property that changes whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.acts, self.looks = nn.ModuleList([nn.ReLU(), nn.GELU()]), 0

    @property
    def act(self) -> nn.Module:
        self.looks += 1
        return self.acts[self.looks % 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x))


def test_properties_are_not_looked_at_twice() -> None:
    names = [site.activation for site in surgery.find_sites(Alternating(), torch.rand(2, 4))]
    assert names == ["relu", "gelu"]  # the outer call is looked up first and made last


REGISTRY: dict[str, type] = {}


class Registered(nn.Module):
    """Every subclass is registered."""

    def __init_subclass__(cls) -> None:
        REGISTRY[cls.__name__] = cls

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) - 1)


def test_no_class_is_made_behind_a_registry() -> None:
    model, rows = Registered(), torch.rand(2, 4)
    with assert_untouched(model):
        rule = surgery.erase(site="act 1/2")
        assert_raises(CannotEdit, lambda: surgery.transform_(model, rule, rows), "subclass")
    assert not REGISTRY


@dataclass
class Pair:
    """A result that is neither a tensor nor a tuple."""

    first: Tensor
    second: Tensor


class GivesPairs(nn.Module):
    """Twice the same ReLU, results in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, pair: Pair) -> Pair:
        return Pair(self.act(pair.first), self.act(pair.second) - 1)


class TakesPairs(nn.Module):
    """Gives its child a dataclass and takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.child = nn.Linear(4, 4), GivesPairs()

    def forward(self, x: Tensor) -> Tensor:
        pair = self.child(Pair(self.fc(x), x))
        return pair.first + pair.second


def test_dataclasses_are_looked_into() -> None:
    model, rows = TakesPairs(), torch.randn(2, 4)
    edited, _ = surgery.transform(model, surgery.erase(site="child.act 2/2"), rows)
    assert torch.equal(edited(rows), F.relu(model.fc(rows)) + (rows - 1))


class ReplacesItsBuffer(nn.Module):
    """Every forward replaces a buffer by a new tensor, like position tables that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.table = None
        for _ in range(50):  # the memory of the old buffer is free for the results of these calls
            x = torch.sigmoid(x) + 1
        self.table = torch.ones(1)
        return x


@pytest.mark.slow
def test_a_buffer_replaced_in_forward_hides_no_call() -> None:
    model = ReplacesItsBuffer()
    assert {len(surgery.find_sites(model, torch.rand(2, 4))) for _ in range(20)} == {50}


class Static(nn.Module):
    """A forward without a self."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.relu(x)


@pytest.mark.parametrize("model", [Static(), nn.Sequential(nn.Linear(4, 4), Static())], ids=["whole", "part"])
def test_a_static_forward_is_refused_as_what_it_is(model: nn.Module) -> None:
    rows = torch.rand(2, 4)
    [site] = surgery.find_sites(model, rows)
    assert (site.owner_kind, site.method) == ("Static", "forward")
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: surgery.transform_(model, surgery.erase(), rows), "static")
