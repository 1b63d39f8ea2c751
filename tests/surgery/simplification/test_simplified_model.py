"""Simplify: the laws. What is equal becomes cheap, nothing is farther than the tolerance, and all can be undone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.activations import Affine, build
from surgery.errors import BadValue, NothingPicked
from surgery.simplification.report import Simplification
from tests.asserts import assert_bit_equal, assert_untouched
from tests.surgery.repair.data import random_batches


class Net(nn.Module):
    """Three convolutions; one function called twice, one once."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.norm(self.conv1(x)))
        x = x + self.first(self.conv2(x))
        return self.second(self.conv3(x))


def plain(first: nn.Module | None = None, second: nn.Module | None = None) -> Net:
    torch.manual_seed(0)
    return Net(first or nn.ReLU(), second or nn.ReLU()).eval()


def batches() -> list[Tensor]:
    return random_batches(2, 8, 3, 6, 6)


def learned(to: str, first: nn.Module | None = None, second: nn.Module | None = None, **params: Any) -> Net:
    """A network whose functions were swapped for `to`."""
    edited, _ = surgery.transform(plain(first, second), surgery.swap(to, **params), batches()[0][:2])
    return edited


def functions(model: nn.Module) -> list[Any]:
    """The learned functions, with the parameters of their own that they have."""
    return [module for module in model.modules() if not list(module.children()) and list(module.parameters())
            and not isinstance(module, nn.Conv2d | nn.BatchNorm2d)]  # fmt: skip


def trained(to: str = "pwlu", **params: Any) -> Net:
    """Its parameters are moved, as a training moves them."""
    params = params | ({"intervals": 6} if to == "pwlu" else {})
    edited, generator = learned(to, **params), torch.Generator().manual_seed(5)
    for function in functions(edited):
        for param in function.parameters():
            param.data.add_(0.03 * torch.randn(param.shape, generator=generator))
    return edited


def became(report: Simplification) -> list[str]:
    return [call.became for call in report.calls]


@pytest.mark.parametrize("to", ["pwlu", "npwlu", "frelu", "prelu"])
def test_what_is_a_relu_becomes_a_relu(to: str) -> None:
    edited = learned(to)
    with assert_untouched(edited):
        simplified, report = surgery.simplify(edited, batches(), 1e-6)
    assert became(report) == ["relu"] * 3 and report.after == 3
    assert isinstance(simplified.second, nn.ReLU) and not functions(simplified)
    x = batches()[0]
    assert torch.allclose(simplified(x), plain()(x), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "to", "name"),
    [
        (nn.LeakyReLU(0.2), "pwlu", "leaky_relu"),
        (nn.ReLU6(), "pwlu", "relu"),  # nothing here is as large as 6
        (nn.SiLU(), "swish", "silu"),
        (nn.Identity(), "frelu", "identity"),
    ],
    ids=lambda case: case if isinstance(case, str) else type(case).__name__,
)
def test_what_a_function_began_as_it_becomes_again(function: nn.Module, to: str, name: str) -> None:
    if isinstance(function, nn.Identity):
        edited = plain(build("frelu", 4, positive=1.0, negative=1.0), build("frelu", 4, positive=1.0, negative=1.0))
    else:
        edited = learned(to, function, copy.deepcopy(function))
    simplified, report = surgery.simplify(edited, batches(), 1e-5)
    assert became(report) == [name] * 3
    x = batches()[0]
    assert torch.allclose(simplified(x), edited(x), atol=1e-5)


def test_slopes_that_differ_by_channel_become_a_prelu() -> None:
    slopes, edited = torch.tensor([0.0, 0.1, 0.2, 0.3]), learned("pwlu")
    for function in functions(edited):
        function.fit(lambda rows: torch.where(rows > 0, rows, slopes * rows), function.left, function.right)
    simplified, report = surgery.simplify(edited, batches(), 1e-4)
    assert became(report) == ["prelu"] * 3
    assert isinstance(simplified.second, nn.PReLU)
    assert torch.allclose(simplified.second.weight, slopes, atol=1e-4)


def test_an_affine_function_becomes_one() -> None:
    edited = learned("pwlu")
    for function in functions(edited):
        function.fit(lambda rows: 0.5 * rows + 1, function.left, function.right)
    simplified, report = surgery.simplify(edited, batches(), 1e-4)
    assert became(report) == ["affine"] * 3 and isinstance(simplified.second, Affine)
    assert torch.allclose(simplified.second.bias, torch.ones(4), atol=1e-3)


@pytest.mark.slow
def test_a_curve_needs_intervals_and_fewer_of_them_the_more_is_allowed() -> None:
    edited, counts = learned("pwlu", nn.Tanh()), []
    for tolerance in (1e-2, 3e-2, 1e-1):
        simplified, report = surgery.simplify(edited, batches(), tolerance)
        first = next(iter(functions(simplified)))
        counts.append(first.intervals)
        assert report.calls[0].became == f"pwlu, {counts[-1]} interval{'s' if counts[-1] > 1 else ''}"
        assert report.calls[0].after == 10 + 3 * counts[-1]
    assert 10 > counts[0] > counts[1] > counts[2] >= 1


@pytest.mark.slow
def test_more_tolerance_never_costs_more_operators() -> None:
    edited = trained()
    made = [surgery.simplify(edited, batches(), tolerance)[1] for tolerance in (3e-2, 0.1, 0.3, 1.0)]
    for tighter, looser in pairwise(made):
        assert all(b.after <= a.after for a, b in zip(tighter.calls, looser.calls, strict=True))
    assert made[0].after > made[1].after > made[-1].after


def entered(model: nn.Module, function: nn.Module) -> tuple[Tensor, Tensor]:
    """All inputs and outputs of a function on the batches, as rows of channels."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = function.register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    with torch.no_grad():
        for images in batches():
            model(images)
    handle.remove()
    x, y = (torch.cat([part.movedim(1, -1).reshape(-1, 4) for part in parts]) for parts in zip(*seen, strict=True))
    return x, y


def relative(apart: Tensor, y: Tensor) -> float:
    """The root mean square over the deviation, of the worst channel."""
    return (apart.double().square().mean(0).sqrt() / y.double().std(0, correction=0)).max().item()


@pytest.mark.parametrize("to", ["pwlu", "npwlu", "frelu", "swish", "smelu", "gsmelu"])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_the_error_of_the_report_is_that_of_the_new_function(to: str, per: str) -> None:
    tolerance, edited = 0.1, trained(to, per=per)
    with assert_untouched(edited):
        simplified, report = surgery.simplify(edited, batches(), tolerance)
    edited.eval()
    for call in report.changed:
        x, y = entered(edited, edited.get_submodule(str(call.site.module)))
        with torch.no_grad():
            function = simplified.get_submodule(str(call.site.module))
            spread = x.reshape(-1, 4, 1, 1)
            error = relative(function(spread).reshape(-1, 4).double() - y.double(), y)
        assert call.error == pytest.approx(error, rel=1e-3, abs=1e-6) and error <= tolerance * (1 + 1e-6)
    if to in ("pwlu", "npwlu"):
        assert report.changed


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-4, 0.1])
def test_undo_gives_back_the_trained_functions(tolerance: float) -> None:
    edited = trained()
    simplified, report = surgery.simplify(edited, batches(), tolerance)
    if report.edit is not None:
        surgery.undo(simplified, steps=1)
    x = batches()[0]
    assert_bit_equal(simplified.state_dict().values(), edited.state_dict().values())
    assert_bit_equal([simplified(x)], [edited(x)])
    assert isinstance(surgery.undo(simplified).first, nn.ReLU)


@pytest.mark.slow
def test_it_is_saved_and_loaded_bit_by_bit(tmp_path: Path) -> None:
    simplified, report = surgery.simplify(trained(), batches(), 0.1)
    assert any(name.startswith("pwlu") for name in became(report))
    surgery.save(simplified, tmp_path / "saved")
    loaded = surgery.load(tmp_path / "saved", plain()).eval()
    x = batches()[0]
    assert_bit_equal([loaded(x)], [simplified(x)])


def test_it_can_be_trained_and_simplified_again() -> None:
    once, first = surgery.simplify(trained(), batches(), 0.1)
    once.train()(batches()[0]).sum().backward()
    assert once.second.heights.grad is not None
    twice, second = surgery.simplify(once.eval(), batches(), 0.4)
    assert second.after < first.after and len(surgery.history_of(twice)) == 3


def test_what_nothing_cheaper_equals_is_left_alone_and_listed() -> None:
    edited = trained()
    simplified, report = surgery.simplify(edited, batches(), 1e-9)
    assert report.edit is None and not report.changed and report.before == report.after == 3 * 28
    assert {call.reason for call in report.calls} == {"nothing cheaper is within 1e-09"}
    assert len(surgery.history_of(simplified)) == 1


def test_functions_that_still_change_are_left_alone() -> None:
    _, report = surgery.simplify(learned("pwlu", warmup=0.5), batches())
    assert {call.reason for call in report.calls} == {
        "it still changes with the progress of the training: settle first"
    }


def test_a_network_that_still_fades_is_refused() -> None:
    with pytest.raises(BadValue, match=r"Net still fades(.|\n)*surgery\.settle") as refused:
        surgery.simplify(learned("pwlu", fade=True), batches())
    assert len(refused.value.sites) == 3


class Functional(nn.Module):
    """A PReLU called as a function, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.act = nn.Parameter(torch.ones(3) / 2), nn.PReLU(3, init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(nn.functional.prelu(x, self.slope))


def test_functions_without_a_module_are_left_alone_and_plain_modules_are_not() -> None:
    simplified, report = surgery.simplify(Functional(), random_batches(1))
    assert [call.reason for call in report.calls] == ["it is not called as a module of its own", ""]
    assert isinstance(simplified.act, nn.ReLU)


def test_different_widths_of_one_function_are_left_alone() -> None:
    class Widths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 5, 1), nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(self.act(x)))

    _, report = surgery.simplify(Widths(), random_batches(1))
    assert {call.reason for call in report.calls} == {"its number of channels varies"}


def test_functions_that_only_training_calls_are_left_alone() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.auxiliary = nn.PReLU(3, init=0.0), nn.PReLU(3, init=0.0)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(x)
            return y + self.auxiliary(x) if self.training else y + 1

    _, report = surgery.simplify(Auxiliary(), random_batches(1))
    assert [(str(call.site), call.became, call.reason) for call in report.calls] == [
        ("act", "relu", ""), ("auxiliary", "prelu", "it is not called in eval mode")
    ]  # fmt: skip


def test_functions_that_the_batches_do_not_reach_are_left_alone() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.rare = nn.PReLU(3, init=0.0), nn.PReLU(3, init=0.0)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(x)
            return self.rare(y - 1) if len(y) == 1 else y

    _, report = surgery.simplify(Rare(), random_batches(1), example=random_batches(1)[0][:1])
    assert [(call.became, call.reason) for call in report.calls] == [
        ("relu", ""), ("prelu", "it received no input on these batches")
    ]  # fmt: skip


def test_one_module_called_twice_becomes_one_function_for_both_calls() -> None:
    model = plain(build("frelu", 4, positive=0.9, negative=0.1), build("frelu", 4, positive=1.0, negative=0.2))
    simplified, report = surgery.simplify(model, batches(), 0.3)
    assert [(str(call.site), call.became) for call in report.calls] == [
        ("first 1/2", "relu"), ("first 2/2", "relu"), ("second", "leaky_relu")
    ]  # fmt: skip
    x, y = entered(model, model.first)
    assert report.calls[0].error == report.calls[1].error == pytest.approx(relative(x.relu() - y, y), rel=1e-4)
    assert not functions(simplified)


def test_the_mode_and_what_is_frozen_stay() -> None:
    edited = trained().train()
    edited.second.requires_grad_(False)
    simplified, _ = surgery.simplify(edited, batches(), 0.05)
    assert all(module.training for module in simplified.modules())
    assert not any(param.requires_grad for param in simplified.second.parameters())
    assert all(param.requires_grad for param in simplified.first.parameters())


def test_half_precision_stays_within_the_tolerance() -> None:
    edited = trained().to(torch.bfloat16)
    halves = [images.bfloat16() for images in batches()]
    simplified, report = surgery.simplify(edited, halves, 0.1)
    assert report.changed and all(call.error <= 0.1 for call in report.changed)
    assert {param.dtype for param in simplified.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("tolerance", [0, -1e-3, float("nan"), float("inf"), True, "small"])
def test_a_tolerance_is_above_zero(tolerance: Any) -> None:
    edited = learned("pwlu")
    with assert_untouched(edited), pytest.raises(BadValue, match="relative error"):
        surgery.simplify(edited, batches(), tolerance)


@pytest.mark.parametrize(
    ("make", "words"),
    [(list, "No batches"), (lambda: iter(batches()), "more than once"), (lambda: batches()[0], "one batch")],
    ids=["none", "read once", "a tensor"],
)
def test_batches_are_checked_before_anything_changes(make: Callable[[], Any], words: str) -> None:
    edited = learned("pwlu")
    with assert_untouched(edited), pytest.raises(BadValue, match=words):
        surgery.simplify(edited, make())


def test_a_model_without_learned_functions_is_an_error() -> None:
    with pytest.raises(NothingPicked, match="no learned functions"):
        surgery.simplify(plain(), batches())
