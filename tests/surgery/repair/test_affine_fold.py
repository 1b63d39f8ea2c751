"""Folding: a line merged into the layer in front computes the same where that is exact; other lines stay."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.activations import Fade
from surgery.activations.functions.affine import Affine
from surgery.errors import CannotEdit, NothingPicked, WrongModel
from surgery.history.history import steps_of
from surgery.repair.affine_fold import fold_affine
from tests.models import randomise
from tests.surgery.small_net import SmallNet


def line(channels: int = 4, axis: int = 1) -> Affine:
    made = Affine(channels, axis=axis)
    with torch.no_grad():
        made.weight.uniform_(-2, 2)
        made.bias.uniform_(-2, 2)
    return made


class Rows(nn.Module):
    """Tokens (N, T, C) through a layer and a line on the last axis."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.line = layer, line(axis=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.layer(x)) + 1


FEEDERS: dict[str, tuple[nn.Module, Tensor]] = {
    "batch norm": (nn.Sequential(nn.BatchNorm2d(4), line()), torch.randn(5, 4, 3, 3)),
    "batch norm of rows": (nn.Sequential(nn.BatchNorm1d(4), line()), torch.randn(5, 4)),
    "group norm": (nn.Sequential(nn.GroupNorm(2, 4), line()), torch.randn(5, 4, 3, 3)),
    "instance norm": (nn.Sequential(nn.InstanceNorm2d(4, affine=True), line()), torch.randn(5, 4, 3, 3)),
    "layer norm": (Rows(nn.LayerNorm(4)), torch.randn(5, 6, 4)),
    "linear": (Rows(nn.Linear(4, 4)), torch.randn(5, 6, 4)),
    "conv": (nn.Sequential(nn.Conv2d(4, 4, 3), line()), torch.randn(5, 4, 6, 6)),
    "grouped conv": (nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), line()), torch.randn(5, 4, 6)),
    "shared line": (nn.Sequential(nn.Conv3d(4, 4, 1), line(1)), torch.randn(5, 4, 2, 2, 2)),
    "one sample": (nn.Sequential(nn.BatchNorm2d(4), line(), nn.ReLU(inplace=True)), torch.randn(2, 4, 2, 2)),
}


@pytest.mark.parametrize("case", FEEDERS)
def test_the_fold_is_the_same_function_in_both_modes_and_the_same_slope_of_it(case: str) -> None:
    model, x = copy.deepcopy(FEEDERS[case])
    randomise(model)
    folded = fold_affine(copy.deepcopy(model), x)
    assert not any(isinstance(module, Affine) for module in folded.modules())
    assert {name for name, _ in folded.named_parameters()} < {name for name, _ in model.named_parameters()}
    for mode in (True, False):
        results = []
        for module in (model, folded):
            module.train(mode)
            given = x.clone().requires_grad_()
            value = module(given)
            value.square().sum().backward()
            results.append((value.detach(), given.grad))
        for got, other in zip(*results, strict=True):
            torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-4)
    for (name, entry), (_, other) in zip(model.named_buffers(), folded.named_buffers(), strict=True):
        torch.testing.assert_close(entry, other, msg=name)


@pytest.mark.slow
@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), st.floats(-3, 3, width=32))
def test_any_line_folds(slopes: list[float], intercept: float) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), line())
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(slopes))
        model[1].bias.fill_(intercept)
    x = torch.randn(3, 4, 2, 2)
    wanted = copy.deepcopy(model)(x)
    torch.testing.assert_close(fold_affine(model, x)(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_layer_without_bias_takes_a_line_through_zero_only() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), line()), torch.randn(2, 3, 2, 2)
    with pytest.raises(NothingPicked, match="0 has no bias to absorb the intercept"):
        fold_affine(model, x)
    with torch.no_grad():
        model[1].bias.zero_()
    wanted = model(x)
    torch.testing.assert_close(fold_affine(model, x)(x), wanted)
    assert list(dict(model.named_parameters())) == ["0.weight"]


class Read(nn.Module):
    """A norm, a line, and another use of its input or output that makes folding wrong."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.norm, self.line = what, nn.BatchNorm2d(4), line()
        self.other, self.drop, self.up = nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ConvTranspose2d(4, 4, 1)
        if what == "tied":
            self.other.weight = self.norm.weight

    def forward(self, x: Tensor) -> Any:
        y = self.up(x) if self.what == "transposed" else self.norm(x)
        match self.what:
            case "joined":
                return self.line(y) + y
            case "returned":
                return self.line(y), y
            case "twice":
                return self.line(self.line(y))
            case "norm twice":
                return self.line(self.norm(y))
            case "tied":
                return self.other(self.line(y))
            case "dropout":
                return self.line(self.drop(y))
            case "sum":
                return self.line(y + x)
            case "scaled":
                return self.line(y * 2)
            case "computed":
                return self.line(y) * self.norm.weight.sum()
            case "mode":
                return self.line(y if self.training else self.other(x))
            case "transposed":
                return self.line(y)
            case "other axis":
                return self.line(y.transpose(1, 2))
        return y


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("joined", "its input is also used elsewhere"),
        ("returned", "its input is also used elsewhere"),
        ("twice", "called more than once"),
        ("norm twice", "also used elsewhere"),
        ("tied", "also used elsewhere"),
        ("dropout", "not a norm, convolution or linear layer with a weight"),
        ("sum", "not a norm, convolution or linear layer with a weight"),
        ("scaled", "not a norm, convolution or linear layer with a weight"),
        ("computed", "also used elsewhere"),
        ("mode", "the layer in front of it differs"),
        ("transposed", "not a norm, convolution or linear layer with a weight"),
        ("other axis", "not a norm, convolution or linear layer with a weight"),
        ("never", "it is never called"),
    ],
)
def test_what_is_not_exact_is_left_alone(what: str, reason: str) -> None:
    model = Read(what)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NothingPicked, match=reason):
        fold_affine(model, torch.randn(2, 4, 4, 4))
    assert isinstance(model.line, Affine)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lines_that_cannot_be_folded_stay_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), line(), nn.MaxPool2d(2), line())
    x = torch.randn(2, 4, 4, 4)
    wanted = copy.deepcopy(model)(x)
    with caplog.at_level(logging.INFO, "surgery.repair.affine_fold"):
        fold_affine(model, x)
    torch.testing.assert_close(model(x), wanted)
    assert isinstance(model[1], nn.Identity) and isinstance(model[3], Affine)
    assert "not folded: 3: in front of it is max_pool2d, not a norm" in caplog.text


def test_without_a_line_there_is_nothing_to_fold() -> None:
    with pytest.raises(NothingPicked, match="SmallNet has no affine stand-in"):
        fold_affine(SmallNet(), torch.randn(2, 3, 4, 4))


def edited_net() -> tuple[nn.Module, Tensor]:
    """The line behind the first norm, which can be folded, and one behind a sum, which cannot."""
    torch.manual_seed(1)
    x = torch.randn(4, 3, 6, 6)
    model, _ = surgery.transform(SmallNet(), surgery.erase(block="blocks.0", stand_in="affine"), x)
    return model.eval(), x


def test_a_folded_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model, x = edited_net()
    wanted, before = model(x), len(list(model.parameters()))
    fold_affine(model, x)
    assert len(list(model.parameters())) == before - 2
    torch.testing.assert_close(model(x), wanted)
    surgery.save(model, tmp_path)
    loaded = surgery.load(tmp_path, SmallNet()).eval()
    assert torch.equal(loaded(x), model(x))
    assert [step.kind for step in surgery.history_of(loaded)] == ["surgery", "fold"]
    assert type(loaded).__name__ == "SmallNet"
    surgery.save(loaded, tmp_path / "again")
    assert (tmp_path / "again" / "surgery.json").read_text() == (tmp_path / "surgery.json").read_text()


def test_a_folded_model_can_be_edited_further_and_that_undone() -> None:
    model, x = edited_net()
    fold_affine(model, x)
    wanted = model(x)
    surgery.transform_(model, surgery.swap("gelu", block="blocks.1"), x)
    assert not torch.equal(model(x), wanted)
    surgery.undo(model, 1)
    assert torch.equal(model(x), wanted)


def test_undo_does_not_go_back_behind_a_fold() -> None:
    model, x = edited_net()
    fold_affine(model, x)
    wanted = model(x)
    with pytest.raises(CannotEdit, match="A step of kind 'fold' cannot be undone"):
        surgery.undo(model)
    assert torch.equal(model(x), wanted)


def test_a_fold_is_not_replayed_where_there_is_no_line(tmp_path: Path) -> None:
    model, x = edited_net()
    fold_affine(model, x)
    steps_of(model)[1].data["folded"][0] = "blocks.1.relu"
    surgery.save(model, tmp_path)
    fresh = SmallNet()
    with pytest.raises(WrongModel, match="stand-ins folded that this one does not have"):
        surgery.load(tmp_path, fresh)
    assert surgery.history_of(fresh) == ()


def test_a_fading_line_is_folded_when_it_has_settled() -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 3, 6, 6)
    model, _ = surgery.transform(SmallNet(), surgery.erase(block="blocks.0", stand_in="affine", fade=True), x)
    with pytest.raises(NothingPicked, match="it is never called as a module"):
        fold_affine(model, x)
    assert any(isinstance(module, Fade) for module in model.modules())
    surgery.set_progress(model, 0.5)
    surgery.settle(model.eval())
    wanted = model(x)
    torch.testing.assert_close(fold_affine(model, x)(x), wanted)


def test_a_part_with_its_own_history_is_folded_by_itself() -> None:
    model, x = edited_net()
    whole = nn.Sequential(model, nn.Flatten())
    with pytest.raises(CannotEdit, match="Only a part of this Sequential was edited"):
        fold_affine(whole, x)
    wanted = whole(x)
    fold_affine(model, x)
    torch.testing.assert_close(whole(x), wanted)


class TwoNames(nn.Module):
    """A line with two names, of which the forward uses the second."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.line = nn.BatchNorm2d(4), line()
        self.lines = nn.ModuleList([self.line])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lines[0](self.norm(x))
        return y


def test_hooks_and_names_of_a_line_stay_with_its_place() -> None:
    model, calls, x = TwoNames(), [], torch.randn(2, 4, 2, 2)
    model.line.register_forward_hook(lambda *_: calls.append(1))
    wanted = copy.deepcopy(model)(x)
    fold_affine(model, x)
    assert model.line is model.lines[0] and isinstance(model.line, nn.Identity)
    calls.clear()
    torch.testing.assert_close(model(x), wanted)
    assert calls == [1]
