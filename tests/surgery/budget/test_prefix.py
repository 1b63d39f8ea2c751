"""Prefix: a network entered in the middle returns the same, and is entered only where that is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from surgery.budget import prefix
from surgery.budget.prefix import Calls, Prefix
from surgery.model import in_eval
from tests.surgery.budget.networks import images, small_net

CUTS = ("blocks.1", "blocks.0")


def whole(model: nn.Module) -> list[Tensor]:
    with in_eval(model):
        return [model(images(4, seed)) for seed in (0, 1)]


def entered(model: nn.Module, cut: str | None, cuts: tuple[str, ...] = CUTS) -> Prefix:
    found = Prefix(model, [images(4, 0), images(4, 1)], cuts)
    found.move_to(cut)
    return found


@pytest.mark.parametrize("cut", [None, "blocks.0", "blocks.1"])
def test_outputs_are_those_of_the_whole_network(cut: str | None) -> None:
    model = small_net()
    found = entered(model, cut)
    assert found.at == cut and all(map(torch.equal, found.outputs(), whole(small_net())))


def test_what_is_in_front_is_not_computed() -> None:
    model, calls = small_net(), []
    for path in ("stem", "blocks.0", "blocks.1"):
        model.get_submodule(path).register_forward_hook(lambda module, *_, path=path: calls.append(path))
    found = entered(model, "blocks.1")
    calls.clear()
    list(found.outputs())
    assert [name for name in calls if type(model.get_submodule(name)).__name__ != "_Nothing"] == ["blocks.1"] * 2


def test_it_moves_on_back_and_to_the_start() -> None:
    model = small_net()
    names = repr(model)
    found = entered(model, "blocks.0")
    for cut in ("blocks.1", "blocks.0", "blocks.1", None):
        found.move_to(cut)
        assert all(map(torch.equal, found.outputs(), whole(small_net())))
    assert found.at is None and repr(model) == names


def test_the_last_cut_in_front_of_a_module_is_found() -> None:
    found = entered(small_net(), None)
    assert found.cuts == ["blocks.0", "blocks.1"]
    assert [found.cut_for(path) for path in ("stem", "blocks.0", "blocks.0.conv2", "blocks.1.conv1", "never")] == [
        None, "blocks.0", "blocks.0", "blocks.1", None,
    ]  # fmt: skip


class Bypassed(nn.Module):
    """What enters the last block is not all that the output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc((self.second(x) + x).mean((2, 3)))


class CalledTwice(nn.Module):
    """A module in front is called again behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.second, self.act, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.second(self.act(self.conv(x)))).mean((2, 3)))


def test_a_bypass_is_not_cut() -> None:
    model = Bypassed().eval()
    found = entered(model, "second", ("second",))
    assert found.at is None and all(map(torch.equal, found.outputs(), whole(model)))


def test_a_module_that_is_called_again_stays() -> None:
    model = CalledTwice().eval()
    before = whole(model)
    found = entered(model, "second", ("second",))
    assert found.at == "second" and found.calls.finished_before("second") == ["conv"]
    assert all(map(torch.equal, found.outputs(), before))


def test_too_large_tensors_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "MOST_BYTES", 100)
    assert entered(small_net(), "blocks.1").at is None


def test_calls_are_in_order() -> None:
    calls = Calls.of(small_net(), images(2))
    assert calls.starts["stem"] < calls.ends["stem"] < calls.starts["blocks.0"] < calls.starts["blocks.0.conv1"]
    assert calls.finished_before("blocks.1") == ["stem", "blocks.0"]


class ReadsInFront(nn.Module):
    """Reads an attribute of a module in front, and adds to what that returns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second, self.fc = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        self.position = nn.Parameter(torch.rand(4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.stem(x) / self.stem.stride[0] + self.position).mean((2, 3)))


def test_what_stands_in_front_has_the_shape_and_the_attributes() -> None:
    model = ReadsInFront().eval()
    before = whole(model)
    found = entered(model, "second", ("second",))
    assert found.at == "second" and all(map(torch.equal, found.outputs(), before))
