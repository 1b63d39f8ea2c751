"""Modules whose calls were all replaced: their parameters are removed, unless code still reads them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import surgery
from tests.asserts import assert_same_function, assert_untouched


class Shared(nn.Module):
    """One PReLU that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


class Asking(Shared):
    """Asks whether there is an activation, and calls it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.act is not None:
            x = self.act(x)
        return self.act(self.b(x))


class Decaying(Shared):
    """Reads the weight of its activation elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def penalty(self) -> Tensor:
        return self.act.weight.square().sum()


class Named(Decaying):
    """Finds its activation by its name."""

    def penalty(self) -> Tensor:
        return getattr(self, "act").weight.sum()  # noqa: B009


class Calling(Shared):
    """Has another method, not run here, that calls the activation."""

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))


class Looping(Shared):
    """Two passes of a loop, as many as a setting says."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for _ in range(self.passes):
            x = self.act(x)
        return x


class Block(nn.Module):
    """Calls an activation that it was given."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Lending(nn.Module):
    """Has a name for the activation of its blocks, and never calls it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.PReLU()
        self.blocks = nn.Sequential(Block(self.shared), Block(self.shared))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Reaching(nn.Module):
    """Reads the activation of its part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Shared()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)

    def penalty(self) -> Tensor:
        return self.part.act.weight.sum()


class Listed(nn.Module):
    """Its activation is in a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.acts = nn.Conv2d(3, 3, 1), nn.ModuleList([nn.PReLU()])

    def forward(self, x: Tensor) -> Tensor:
        return self.acts[0](self.fc(self.acts[0](x)))


def example() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def without_gradient(model: nn.Module) -> list[str]:
    tensors = model(example())
    tensors.sum().backward()
    return [name for name, param in model.named_parameters() if param.grad is None]


@pytest.mark.parametrize("to", ["relu", "prelu", "pwlu"])
@pytest.mark.parametrize(
    ("kind", "gone"),
    [(Shared, "act"), (Asking, "act"), (Lending, "shared"), (Listed, "acts.0")],
    ids=lambda case: str(case),
)
def test_a_shared_module_leaves_with_its_last_call(kind: type[nn.Module], gone: str, to: str) -> None:
    model = kind()
    with assert_untouched(model):
        edited, report = surgery.transform(model, surgery.swap(to), example())
    assert f"{gone}.weight" in report.removed and report.idle == ()
    assert f"{gone}.weight" not in dict(edited.named_parameters(remove_duplicate=False))
    assert isinstance(edited.get_submodule(gone), surgery.activations.Unused)
    assert without_gradient(edited) == []
    assert list(edited.named_parameters(remove_duplicate=False)) and f"1 removed parameter: {gone}.weight" in str(
        report
    )
    assert_same_function(surgery.undo(edited), model, example())


@pytest.mark.parametrize("kind", [Decaying, Named, Calling, Reaching])
def test_what_code_reads_elsewhere_stays_and_is_told(kind: Any) -> None:
    model = kind()
    rule = surgery.swap("leaky_relu", optional=True)
    if kind in (Decaying, Named):
        kind.forward = Shared.forward  # a call through super() is locked
    edited, report = surgery.transform(model, rule, example())
    weight = "part.act.weight" if kind is Reaching else "act.weight"
    assert report.removed == () and report.idle == (weight,)
    assert f"1 unused parameter: {weight}" in str(report)
    if hasattr(edited, "penalty"):
        assert edited.penalty() == model.penalty()
    if kind is Calling:
        assert torch.equal(edited.features(example()), model.features(example()))


def test_a_module_of_which_a_call_remains_stays() -> None:
    edited, report = surgery.transform(Shared(), surgery.swap("relu", turn=1), example())
    assert report.removed == () and report.idle == ()
    assert without_gradient(edited) == []


def test_passes_that_may_come_later_still_find_their_module() -> None:
    model = Looping()
    rules = [surgery.swap("relu", iteration=1), surgery.swap("silu", iteration=2)]
    edited, report = surgery.transform(model, rules, example())
    assert report.idle == ("act.weight",)
    edited.passes = 3
    x = edited.a(example())
    assert torch.equal(edited(example()), model.act(nn.functional.silu(x.relu())))


def test_a_module_in_a_graph_leaves_with_its_last_node() -> None:
    model = fx.symbolic_trace(Shared())
    edited, report = surgery.transform(model, surgery.swap("relu"), example())
    assert report.removed == ("act.weight",)
    assert without_gradient(edited) == []
    assert_same_function(surgery.undo(edited), model, example())


def test_a_model_that_lost_its_shared_module_is_copied_scripted_saved_and_loaded(tmp_path: Path) -> None:
    edited, _ = surgery.transform(Shared().eval(), surgery.swap("relu"), example())
    assert_same_function(copy.deepcopy(edited), edited, example())
    with pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"):
        scripted = torch.jit.script(edited)
    assert torch.equal(scripted(example()), edited(example()))
    surgery.save(edited, tmp_path)
    assert_same_function(surgery.load(tmp_path, Shared().eval()), edited, example())
