"""Initial values: how a new function starts, its maximum error, and what the report says about it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery import transforms
from surgery.activations.input_stats import ROUNDING
from surgery.history.plan_data import check_steps
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import assert_bit_equal, assert_raises, assert_same_function, assert_untouched
from tests.models import picture, randomise

BENT = ("prelu", "frelu", "pwlu", "npwlu")  # straight lines that meet: a ReLU is one of them
SLOPES = torch.tensor([0.3, -0.1, 0.0, 1.5, 0.05])


class Rows(models.Stated):
    """Tokens with their channels last, in front of two activations; the first one has as many tokens as channels."""

    example = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3), first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.fc2(self.first(self.fc1(x))))


class Slanted(models.Stated):
    """Functional calls with a slope of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.3)))


class Smooth(models.Stated):
    """A function behind a norm, and one behind a convolution."""

    def __init__(self, function: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm, self.act1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), function()
        self.conv2, self.act2 = nn.Conv2d(4, 3, 1), function()

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(self.act1(self.norm(self.conv1(x)))))


def started(model: nn.Module, rule: Rule, example: Any = None) -> tuple[nn.Module, surgery.Report]:
    return surgery.transform(model.eval(), rule, example)


def apart(model: nn.Module, edited: nn.Module, x: Tensor) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        before, after = model.eval()(x.clone()).double(), edited.eval()(x.clone()).double()
    return float((after - before).abs().max() / before.abs().max())


def entering(model: nn.Module, path: str, x: Tensor) -> Tensor:
    """The input of the module at a path, recorded by a hook."""
    noted: list[Tensor] = []
    with model.get_submodule(path).register_forward_pre_hook(lambda _, args: noted.append(args[0].clone())):
        model(x.clone())
    return noted[0].detach()


def farthest(old: nn.Module, new: nn.Module, low: Tensor, high: Tensor) -> float:
    """The largest difference of two functions of (n, C, 1, 1), between numbers per channel."""
    points = low + torch.linspace(0, 1, 5001).unsqueeze(1) * (high - low)
    points = points[..., None, None]
    with torch.no_grad():
        return float((new(points) - old(points)).abs().max())


# What can be met exactly


@pytest.mark.parametrize("to", BENT)
@pytest.mark.parametrize("kind", [models.ResidualNet, models.PreActNet, models.TwiceUsed, models.ThriceInPlace])
def test_a_relu_is_met_exactly(kind: type[models.Stated], to: str) -> None:
    model = randomise(kind())
    for example in (kind.example, None if kind is models.ThriceInPlace else kind.example[:1]):
        edited, report = started(model, surgery.swap(to), example)
        assert apart(model, edited, kind.example) <= 1e-5
        assert set(report.far) == set(report.before)
        assert max(report.far.values()) <= ROUNDING
        assert f"{to} initialised to match relu: exact" in str(report)


def test_without_it_a_relu_becomes_something_else() -> None:
    model = randomise(models.ResidualNet())
    edited, report = started(model, surgery.swap("prelu", start="own"), picture())
    assert apart(model, edited, picture()) > 1e-3
    assert {module.weight[0].item() for module in edited.modules() if isinstance(module, nn.PReLU)} == {0.25}
    assert "prelu initialised to match relu: maximum error" in str(report)


@pytest.mark.parametrize("to", BENT)
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_a_leaky_relu_is_met_exactly(to: str, per: str) -> None:
    model = Rows(nn.LeakyReLU(0.2), nn.LeakyReLU(0.07))
    edited, report = started(model, surgery.swap(to, per=per) if to != "npwlu" else surgery.swap(to), Rows.example)
    assert apart(model, edited, Rows.example) <= 1e-5
    assert f"{to} initialised to match leaky_relu: exact" in str(report)


@pytest.mark.parametrize("to", BENT)
def test_the_learned_slopes_of_a_prelu_are_met_channel_by_channel(to: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.PReLU(5), nn.Conv2d(5, 2, 1), nn.PReLU())
    with torch.no_grad():
        model[2].weight.copy_(SLOPES)
    edited, report = started(model, surgery.swap(to), picture())
    assert apart(model, edited, picture()) <= 1e-5
    assert f"{to} initialised to match prelu: exact" in str(report)


def test_slopes_taken_over_are_the_numbers_themselves() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.PReLU(5))
    with torch.no_grad():
        model[1].weight.copy_(SLOPES)
    prelu, frelu = (started(model, surgery.swap(to), picture())[0][1] for to in ("prelu", "frelu"))
    assert torch.equal(prelu.weight, SLOPES)
    assert torch.equal(frelu.negative, SLOPES) and torch.equal(frelu.positive, torch.ones(5))


@pytest.mark.parametrize("to", ["frelu", "pwlu", "npwlu"])
def test_learned_slopes_of_channels_that_stand_last(to: str) -> None:
    model, _ = started(Rows(nn.ReLU(), nn.ReLU()), surgery.swap("prelu"), Rows.example)
    assert model.first.weight.shape == (5,)  # type: ignore[union-attr]
    with torch.no_grad():
        model.first.weight.copy_(SLOPES)  # type: ignore[operator, union-attr]
    edited, report = started(model, surgery.swap(to), Rows.example)
    assert apart(model, edited, Rows.example) <= 1e-5
    assert max(report.far.values()) <= ROUNDING


def test_the_slope_of_a_functional_call_is_met() -> None:
    model = Slanted()
    edited, report = started(model, surgery.swap("prelu"), picture())
    slopes = {name: param.detach() for name, param in edited.named_parameters() if name in report.added}
    assert [slope.shape for slope in slopes.values()] == [(4,), (6,)]
    for slope, wanted in zip(slopes.values(), (0.3, 0.01), strict=True):
        assert torch.allclose(slope, torch.tensor(wanted))
    for to in BENT:
        assert apart(model, started(model, surgery.swap(to), picture())[0], picture()) <= 1e-5


def test_calls_of_one_module_each_begin_for_their_own_channels() -> None:
    model = randomise(models.TwiceUsed())
    edited, report = started(model, surgery.swap("pwlu"), picture())
    shapes = {param.shape for name, param in edited.named_parameters() if name in report.added and param.dim() == 2}
    assert shapes == {(17, 4), (17, 5)}
    assert len(report.far) == 2


def test_what_runs_several_times_begins_once() -> None:
    model = randomise(models.HeadOnLevels())
    example = models.HeadOnLevels.example
    edited, report = started(model, surgery.swap("frelu"), example)
    with torch.no_grad():
        for before, after in zip(model(copy.deepcopy(example)), edited(copy.deepcopy(example)), strict=True):
            assert torch.allclose(before, after, atol=1e-6)
    assert report.far and max(report.far.values()) <= ROUNDING


def test_a_call_made_in_training_only_begins_as_before_too() -> None:
    class Trained(models.Stated):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x)) if self.training else self.conv(x)

    model = Trained().train()
    edited, report = surgery.transform(model, surgery.swap("prelu"), picture())
    assert torch.equal(edited(picture()), model(picture()))
    assert "prelu initialised to match relu: exact" in str(report)


def test_what_was_learned_meanwhile_is_taken_over() -> None:
    model, _ = started(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), surgery.swap("frelu"), picture())
    with torch.no_grad():
        model[1].positive.copy_(1 + SLOPES)
        model[1].negative.copy_(SLOPES)
    edited, report = started(model, surgery.swap("frelu", alternate="slopes"), picture())
    assert_bit_equal([edited[1].positive, edited[1].negative], [1 + SLOPES, SLOPES])
    assert "frelu initialised to match frelu: exact" in str(report)


@pytest.mark.parametrize(("before", "after"), [({"intervals": 8}, {"intervals": 16}), ({"per": "layer"}, {}), ({}, {})])
def test_what_was_learned_meanwhile_goes_into_another_layout(before: dict[str, Any], after: dict[str, Any]) -> None:
    model, _ = started(nn.Sequential(nn.Conv2d(3, 5, 1), nn.GELU()), surgery.swap("pwlu", params=before), picture())
    edited, report = started(model, surgery.swap("pwlu", params=after | {"snap": True}), picture())
    assert edited[1].heights.shape == (17, 5)
    assert apart(model, edited, picture()) < (0.05 if before else 1e-6)
    assert max(report.far.values()) < (0.05 if before else ROUNDING)


# What can only be come near to


@pytest.mark.parametrize(("function", "within"), [(nn.GELU, 0.03), (nn.SiLU, 0.02), (nn.Hardswish, 0.04)])
@pytest.mark.parametrize("given", [True, False])
def test_pwlu_comes_near_and_says_how_near(function: type[nn.Module], within: float, given: bool) -> None:
    model, x = randomise(Smooth(function)).eval(), picture() * 4 - 2
    edited, report = started(model, surgery.swap("pwlu"), x if given else None)
    within = within if given else 0.15  # on random numbers, or four deviations from what the norm says
    assert apart(model, edited, x) < 3 * within
    far_at = {site.path: far for site, far in report.far.items()}
    assert set(far_at) == {"act1", "act2"} and all(0 < far < within for far in far_at.values())
    norm = model.norm
    assert isinstance(norm, nn.BatchNorm2d)
    for path in far_at if given else ["act1"]:
        if given:
            seen = entering(model, path, x).movedim(1, -1).flatten(0, -2)
            low, high = seen.amin(0), seen.amax(0)
        else:
            low, high = norm.bias - 4 * norm.weight.abs(), norm.bias + 4 * norm.weight.abs()
        found = farthest(model.get_submodule(path), edited.get_submodule(path), low.detach(), high.detach())
        assert far_at[path] == pytest.approx(found, rel=0.05)
    worst = max(far_at, key=lambda path: far_at[path])
    name = report.plan.edits[0].site.activation
    assert f"pwlu initialised to match {name}: maximum error {far_at[worst]:.2g} ({worst})" in str(report)


def test_more_intervals_come_nearer() -> None:
    model = randomise(Smooth(nn.GELU))
    far = [max(started(model, surgery.swap("pwlu", intervals=n), picture())[1].far.values()) for n in (4, 8, 16)]
    assert far[0] > 2 * far[1] > 4 * far[2]


def test_pwlu_in_warmup_is_what_it_replaces() -> None:
    model = randomise(Smooth(nn.GELU)).eval()
    edited, report = started(model, surgery.swap("pwlu", warmup=0.1), picture())
    assert not torch.equal(edited(picture()), model(picture()))  # nobody said yet that it trains: it may be loaded
    assert "pwlu initialised to match gelu: maximum error" in str(report)
    surgery.set_progress(edited, 0.0)
    assert torch.equal(edited(picture()), model(picture()))


def test_tokens_of_a_transformer_come_near() -> None:
    model = models.TinyVit()
    edited, report = started(model, surgery.swap("pwlu"), picture())
    assert apart(model, edited, picture()) < 1e-3
    assert {edited.get_submodule(site.path).heights.shape for site in report.before} == {(17, 12)}
    assert all(0 < far < 0.01 for far in report.far.values())


@pytest.mark.parametrize(("to", "param", "value"), [("swish", "beta", 1.0), ("silu", "", 0.0)])
def test_silu_is_a_swish(to: str, param: str, value: float) -> None:
    model = randomise(Smooth(nn.SiLU))
    edited, report = started(model, surgery.swap(to), picture())
    assert apart(model, edited, picture()) <= 1e-5
    assert f"{to} initialised to match silu: exact" in str(report)
    if param:
        assert set(getattr(edited.act1, param).tolist()) == {value}


def test_functions_without_parameters_say_how_far_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    x = picture() * 8 - 4
    _, report = started(model, surgery.swap("gelu"), x)
    (far,) = report.far.values()
    assert far == pytest.approx(0.16997, abs=1e-3)  # at 0.7518 to either side of zero
    assert "gelu initialised to match relu: maximum error 0.17 (1)" in str(report)
    assert "helu initialised to match relu: exact" in str(started(model, surgery.swap("helu"), x)[1])


def test_each_pair_of_functions_has_a_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.GELU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    rules = [surgery.swap("prelu", activation="relu"), surgery.swap("silu", activation="gelu")]
    report = surgery.transform(model, rules, picture())[1]
    lines = [line for line in str(report).splitlines() if "initialised" in line]
    assert lines[0] == "  prelu initialised to match relu: exact"
    assert lines[1].startswith("  silu initialised to match gelu: maximum error ") and lines[1].endswith(" (3)")
    assert len(lines) == 2


# What the user says


@pytest.mark.parametrize(
    ("to", "given", "others"),
    [
        ("prelu", {"init": 0.1}, {"weight": 0.1}),
        ("frelu", {"negative": 0.2}, {"negative": 0.2, "positive": 1.0}),
        ("frelu", {"positive": 2.0}, {"positive": 2.0, "negative": 0.3}),
        ("swish", {"beta": 3.0}, {"beta": 3.0}),
        ("smelu", {"beta": 0.5}, {"beta": 0.5}),
    ],
)
def test_what_is_given_wins(to: str, given: dict[str, float], others: dict[str, float]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(0.3))
    edited, report = started(model, surgery.swap(to, params=given), picture())
    for name, value in others.items():
        assert torch.equal(getattr(edited[1], name), torch.full((4,), value))
    assert max(report.far.values()) > ROUNDING
    assert "maximum error" in str(report)


def test_what_is_given_and_says_nothing_of_the_start_lets_it_begin_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(0.3))
    edited, report = started(model, surgery.swap("frelu", alternate="slopes", every=2), picture())
    assert torch.allclose(edited[1].negative, torch.tensor(0.3))
    assert "match leaky_relu: exact" in str(report)


def test_a_start_is_one_of_a_few() -> None:
    assert_raises(surgery.BadValue, lambda: surgery.swap("prelu", start="zero"), "`start`", "same", "own")
    assert str(surgery.swap("prelu", start="own")) == "swap('prelu', role='nonlinearity', start='own')"
    assert surgery.swap("prelu", start="own") != surgery.swap("prelu")


# What must not be noticed


def test_on_a_meta_model_nothing_is_measured() -> None:
    with torch.device("meta"):
        model = models.ResidualNet()
    for to in (*BENT, "gelu"):
        edited, report = surgery.transform(model, surgery.swap(to))
        assert report.far == {}
        assert "initialised" not in str(report)
        assert {param.device.type for param in edited.parameters()} == {"meta"}


KINDS = [(models.TwiceUsed, None), (models.Stateful, None), (models.Stateful, picture())]


@pytest.mark.parametrize(("kind", "example"), KINDS)
def test_starting_leaves_no_trace(kind: type[models.Stated], example: Tensor | None) -> None:
    model = kind()
    with assert_untouched(model):
        surgery.transform(model, surgery.swap("pwlu"), example)


def test_starting_in_place_leaves_no_trace() -> None:
    model = models.Stateful()
    state = torch.get_rng_state()
    surgery.transform_(model, surgery.swap("frelu"), picture())
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.seen, model.kept, float(model.calls), int(model.bn.num_batches_tracked or 0)) == (0, None, 0, 0)


def test_hooks_of_the_user_are_not_called_and_stay() -> None:
    model, calls = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), list[str]()
    model[0].register_forward_pre_hook(lambda *_: calls.append("pre"))
    model[1].register_forward_hook(lambda *_: calls.append("post"))
    edited, _ = started(model, surgery.swap("pwlu"), picture())
    assert calls == []
    edited(picture())
    assert calls == ["pre", "post"]


def test_what_learns_afterwards_is_what_learned_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4))
    assert all(param.requires_grad for param in started(model, surgery.swap("pwlu"), picture())[0].parameters())
    model[1].requires_grad_(False)
    edited, _ = started(model, surgery.swap("frelu"), picture())
    assert {name: param.requires_grad for name, param in edited.named_parameters()} == {
        "0.weight": True, "0.bias": True, "1.positive": False, "1.negative": False,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("to", BENT)
def test_other_precisions_are_met_exactly_too(to: str, dtype: torch.dtype) -> None:
    model = randomise(models.ResidualNet()).to(dtype)
    example = (picture() * 4 - 2).to(dtype)
    edited, report = started(model, surgery.swap(to), example)
    assert {param.dtype for param in edited.parameters()} == {dtype}
    assert max(report.far.values()) <= ROUNDING
    assert apart(model, edited, example) <= (1e-5 if dtype is torch.float64 else torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_a_relu_stays_the_same_to_the_bit(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).to(dtype), torch.randn(2, 3, 8, 8).to(dtype)
    for to in ("prelu", "frelu", "pwlu"):
        assert torch.equal(started(model, surgery.swap(to), x)[0](x), model(x))


# What is kept


@pytest.mark.slow
@pytest.mark.parametrize("to", ["prelu", "pwlu", "npwlu", "swish", "smelu"])
def test_a_saved_start_is_loaded_bit_for_bit_without_looking(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomise(models.BottleneckNet())
    edited, report = started(model, surgery.swap(to), picture() * 6 - 3)
    surgery.save(edited, tmp_path)

    def look(*_: object) -> None:
        raise AssertionError("loading looked at what enters")

    monkeypatch.setattr(transforms, "seen_at", look)
    loaded = surgery.load(tmp_path, models.BottleneckNet()).eval()
    assert_same_function(loaded, edited, picture())
    if to in ("swish", "smelu"):  # they begin as what they do because of what was seen
        named = dict(edited.named_parameters())
        assert len({number for name in report.added for number in named[name].tolist()}) > 1


def test_the_start_is_written_down(tmp_path: Path) -> None:
    model = models.BottleneckNet()
    rules = [surgery.swap("prelu", position=1, start="own"), surgery.swap("gelu", position=2)]
    edited, report = surgery.transform(model, rules, picture())
    assert {edit.site.position: edit.start for edit in report.plan.edits} == {1: "own", 2: "same"}
    surgery.save(edited, tmp_path)
    (step,) = json.loads((tmp_path / "surgery.json").read_text())["steps"]
    assert [edit["start"] for edit in step["data"]["edits"]] == ["own", "same"] * 2
    loaded = surgery.load(tmp_path, models.BottleneckNet())
    assert surgery.history_of(loaded)[0].data == surgery.history_of(edited)[0].data
    step["data"]["edits"][0]["start"] = 3
    assert_raises(surgery.BadFile, lambda: check_steps([step]), "'start'")


# What several calls share, and what is too small or too wild to tell


class Twice(nn.Module):
    """One block run twice, the second time on numbers thirty times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.block(x) * 30)
        return out


def test_a_function_called_twice_begins_with_what_enters_both() -> None:
    model, x = randomise(Twice()), torch.randn(64, 4)
    edited, report = started(model, surgery.swap("pwlu"), x)
    assert len(report.far) == 2 and len(set(report.far.values())) == 1
    entered: list[Tensor] = []
    model.block[1].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(x)
    for module in tuple(entered):
        apart = (edited.block[1](module) - model.block[1](module)).abs().max()  # type: ignore[operator, index, union-attr]
        assert apart <= 1.001 * next(iter(report.far.values())) + 1e-6
    assert "own" not in str(report)


def test_small_numbers_are_told_apart_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU())
    with torch.no_grad():
        model[0].weight.mul_(1e-3)  # type: ignore[operator, union-attr]
        model[0].bias.zero_()  # type: ignore[operator, union-attr]
    report = surgery.transform(model, surgery.swap("gelu"), picture())[1]
    assert "gelu initialised to match silu: maximum error" in str(report)


@pytest.mark.parametrize("wild", [torch.nan, torch.inf])
def test_nothing_is_fitted_to_what_is_not_finite(wild: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    edited, report = surgery.transform(model, surgery.swap("swish"), torch.full((2, 3, 4, 4), wild))
    assert edited[1].beta.tolist() == [1.0] * 4  # type: ignore[index, union-attr]
    assert "1 swish with default initial values" in str(report)


def test_a_bound_of_ones_own_holds_between_two_of_a_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    surgery.transform_(model, surgery.swap("pwlu"), picture())
    edited, _ = surgery.transform(model, surgery.swap("pwlu", bound=1.0, activation="pwlu"), picture())
    assert edited[1].left.tolist() == [-1.0] * 4  # type: ignore[index, union-attr]


class Nothing(nn.Module):
    """A network whose second ReLU gets an empty input, like the heads of a detector that detects nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu1, self.relu2 = nn.GELU(), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.first(x))
        return torch.cat([x, self.relu2(self.second(x[:0]))])


def test_a_call_that_nothing_enters_has_values_of_its_own() -> None:
    _, report = surgery.transform(Nothing(), surgery.swap("pwlu"), torch.randn(8, 4))
    assert "pwlu initialised to match gelu: maximum error" in str(
        report
    ) and "1 pwlu with default initial values" in str(report)
