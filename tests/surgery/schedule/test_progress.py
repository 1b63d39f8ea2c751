"""Fading: nothing has changed at progress 0, everything at progress 1, and settling makes it permanent."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import surgery
from surgery.activations import PWLU, Affine, Fade, FReLU
from surgery.errors import BadValue
from surgery.plan.rules import Rule
from surgery.schedule.progress import check_settled, finish, gradual, progress_of
from tests import models
from tests.asserts import assert_bit_equal, assert_raises, assert_same_function, assert_untouched
from tests.models import picture, randomise

CASES: tuple[tuple[type[models.Stated], Rule, Rule], ...] = (
    (models.ResidualNet, surgery.erase_relu(fade=True), surgery.erase_relu()),
    (models.BottleneckNet, surgery.erase_relu(fade=True), surgery.erase_relu()),
    (models.InceptionNet, surgery.erase_relu(fade=True), surgery.erase_relu()),
    (models.PreActNet, surgery.swap("gelu", fade=True), surgery.swap("gelu")),
    (models.ThriceInPlace, surgery.swap("silu", fade=True), surgery.swap("silu")),
    (models.TwoNames, surgery.swap("elu", fade=True, alpha=0.5), surgery.swap("elu", alpha=0.5)),
    (
        models.FunctionalOptions,
        surgery.swap("gelu", activation="re:(?!prelu).*", fade=True),
        surgery.swap("gelu", activation="re:(?!prelu).*"),
    ),
    (models.ListLoop, surgery.erase(fade=True), surgery.erase()),
)


def fading(kind: type[models.Stated], rule: Rule) -> tuple[nn.Module, nn.Module]:
    """A model and its copy in which activations fade."""
    model = randomise(kind())
    return model, surgery.transform(model, rule, kind.example)[0]


@pytest.mark.parametrize(("kind", "rule", "hard"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_from_the_original_to_the_edited_bit_for_bit(kind: type[models.Stated], rule: Rule, hard: Rule) -> None:
    model, edited = fading(kind, rule)
    assert_same_results(edited, model, kind.example)
    surgery.set_progress(edited, 0.0)
    assert_same_results(edited, model, kind.example)
    surgery.set_progress(edited, 1.0)
    final, _ = surgery.transform(model, hard, kind.example)
    assert_same_results(edited, final, kind.example)
    surgery.settle(edited)
    assert_same_function(edited, final, kind.example)
    assert not any(isinstance(module, Fade) for module in edited.modules())


def assert_same_results(first: nn.Module, other: nn.Module, example: Tensor) -> None:
    """Bit-identical outputs in both modes; their buffers may differ."""
    for train in (False, True):
        results = []
        for model in (first, other):
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(copy.deepcopy(model).train(train)(example.clone()))
        assert_bit_equal([results[0]], [results[1]])


def test_a_report_says_what_is_being_erased() -> None:
    report = surgery.transform(models.ResidualNet(), surgery.erase_relu(fade=True), picture())[1]
    assert "2 of 5 relu calls being erased as progress goes to 1" in str(report)
    assert [site.activation for site in report.after].count("fade") == 2


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan"), float("inf")])
def test_progress_is_a_fraction(progress: float) -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.25)
    with assert_untouched(edited):
        assert_raises(surgery.BadValue, lambda: surgery.set_progress(edited, progress), "`progress`")


def test_without_anything_that_fades_progress_does_nothing_but_warn() -> None:
    erased, _ = surgery.transform(models.ResidualNet(), surgery.erase_relu(), picture())
    pwlu, _ = surgery.transform(models.ResidualNet(), surgery.swap("pwlu"), picture())
    for model in (models.ResidualNet(), erased, pwlu):
        with pytest.warns(UserWarning, match="Nothing in ResidualNet changes over the training, so set_progress"):
            surgery.set_progress(model, 0.5)
    model = models.ResidualNet()
    with assert_untouched(model), pytest.warns(UserWarning, match="Nothing in ResidualNet .* settle does nothing"):
        assert surgery.settle(model) is model
    assert progress_of(model) is None


RULES = (surgery.erase_relu(fade=True), surgery.swap("pwlu", warmup=0.1), surgery.swap("frelu", alternate="slopes"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_nobody_moved_is_named_when_it_is_saved_or_settled(rule: Rule, tmp_path: Path) -> None:
    _, edited = fading(models.ResidualNet, rule)
    # A module that moves is named by the path it stands at.
    (first, *_) = gradual(edited)
    assert first.startswith(("layer1.0.relu", "relu"))
    surgery.set_progress(edited, 0.0)  # as every training begins
    with pytest.warns(UserWarning, match=f"^{first}.* never moved: call surgery.set_progress"):
        surgery.save(edited, tmp_path)
    with pytest.warns(UserWarning, match=f"^{first}.* never moved before it was settled"):
        surgery.settle(edited)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_was_moved_is_saved_and_settled_in_silence(rule: Rule, tmp_path: Path) -> None:
    _, edited = fading(models.ResidualNet, rule)  # warnings are errors here
    for progress in (0.0, 0.5, 1.0):
        surgery.set_progress(edited, progress)
    surgery.save(edited, tmp_path)
    surgery.settle(edited)
    surgery.settle(edited)
    surgery.set_progress(edited, 1.0)  # a loop that goes on
    surgery.save(edited, tmp_path)
    loaded = surgery.load(tmp_path, models.ResidualNet())
    assert_bit_equal(loaded.state_dict().values(), edited.state_dict().values(), "weight")


def test_progress_is_remembered() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    assert progress_of(edited) is None
    surgery.set_progress(edited, 0.3, step=120)
    assert progress_of(edited) == (0.3, 120)
    assert progress_of(copy.deepcopy(edited)) == (0.3, 120)


# Settling


def test_settling_twice_does_nothing_more() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.5)
    assert surgery.settle(edited) is edited
    once = copy.deepcopy(edited)
    with assert_untouched(edited):
        surgery.settle(edited)
    assert_same_function(edited, once, picture())


def test_settling_rewrites_the_steps() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.5)
    surgery.settle(edited)
    (step,) = surgery.history_of(edited)
    assert [edit["fade"] for edit in step.data["edits"]] == [False, False]
    assert len(surgery.find_sites(edited, picture())) == 3


def test_a_settled_model_is_an_erased_one_for_the_next_transform() -> None:
    model, edited = fading(models.BottleneckNet, surgery.erase_relu(fade=True))
    finish(edited)
    rule = surgery.swap("gelu", activation="relu", position=2)
    later, _ = surgery.transform(edited, rule, picture())
    hard, _ = surgery.transform(surgery.transform(model, surgery.erase_relu(), picture())[0], rule, picture())
    assert_same_function(later, hard, picture())


@pytest.mark.parametrize("settled", [False, True])
def test_undo_brings_back_the_original(settled: bool) -> None:
    model, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.5)
    if settled:
        surgery.settle(edited)
    surgery.undo(edited)
    assert_same_function(edited, model, picture())
    assert [type(module) for module in edited.modules()] == [type(module) for module in model.modules()]


def test_undoing_a_later_step_leaves_what_was_settled() -> None:
    model, edited = fading(models.BottleneckNet, surgery.erase_relu(fade=True))
    surgery.transform_(edited, surgery.swap("gelu", position=1), picture())
    finish(edited)
    surgery.undo(edited, 1)
    erased, _ = surgery.transform(model, surgery.erase_relu(), picture())
    assert_same_function(edited, erased, picture())
    assert_same_function(surgery.undo(edited), model, picture())


def test_what_is_added_later_joins_the_progress_of_the_rest() -> None:
    _, edited = fading(models.BottleneckNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.75)
    later, _ = surgery.transform(edited, surgery.swap("gelu", position=1, fade=True), picture())
    assert {float(module.progress) for module in later.modules() if isinstance(module, Fade)} == {0.75}


# Copies, dtypes, weights


def test_an_averaged_copy_follows_its_own_progress() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    averaged = ModelEmaV3(edited)
    surgery.set_progress(edited, 0.5)
    assert {float(module.progress) for module in averaged.modules() if isinstance(module, Fade)} == {0.0}
    surgery.set_progress(averaged.module, 1.0)
    assert {float(module.progress) for module in averaged.modules() if isinstance(module, Fade)} == {1.0}
    assert {float(module.progress) for module in edited.modules() if isinstance(module, Fade)} == {0.5}
    averaged.update(edited)
    assert {float(module.progress) for module in averaged.modules() if isinstance(module, Fade)} == {1.0}


def test_the_state_dict_is_that_of_the_original() -> None:
    model, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.5)
    assert list(edited.state_dict()) == list(model.state_dict())
    models.ResidualNet().load_state_dict(edited.state_dict())
    edited.load_state_dict(models.ResidualNet().state_dict())
    assert progress_of(edited) == (0.5, 0)


def test_a_fading_prelu_keeps_the_weight_of_the_original_and_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4, init=0.1))
    edited, report = surgery.transform(model, surgery.swap("gelu", fade=True), picture())
    assert torch.equal(edited(picture()), model(picture()))
    assert report.added == ("1.start.weight",)
    assert report.removed == ("1.weight",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype: torch.dtype) -> None:
    model = randomise(models.ResidualNet()).to(dtype).eval()
    example = picture().to(dtype)
    edited, _ = surgery.transform(model, surgery.erase_relu(fade=True), example)
    final, _ = surgery.transform(model, surgery.erase_relu(), example)
    with torch.no_grad():
        assert_bit_equal([edited(example)], [model(example)])
        surgery.set_progress(edited, 0.3)
        assert edited(example).dtype is dtype
        surgery.set_progress(edited, 1.0)
        assert_bit_equal([edited(example)], [final(example)])


def test_halving_a_fading_model_later() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    surgery.set_progress(edited, 0.5)
    assert edited.half().eval()(picture().half()).dtype is torch.float16


def test_gradients_reach_everything() -> None:
    edited, _ = surgery.transform(models.BottleneckNet(), surgery.swap("prelu", fade=True, start="own"), picture())
    for progress in (0.3, 0.7):
        surgery.set_progress(edited, progress)
        edited.zero_grad()
        edited(picture()).square().sum().backward()
        silent = [
            name for name, param in edited.named_parameters() if param.grad is None or not param.grad.isfinite().all()
        ]
        assert not silent
        slopes = [param.grad for name, param in edited.named_parameters() if name.endswith("end.weight")]
        assert slopes
        assert all(slope is not None and slope.abs().sum() > 0 for slope in slopes)


def test_where_overwriting_matters_fading_is_refused() -> None:
    model = models.Overwritten()
    with assert_untouched(model):
        assert_raises(
            surgery.CannotEdit,
            lambda: surgery.transform(model, surgery.erase(callee="torch.relu_", fade=True), picture()),
            "overwrites its input",
        )


# Wrapped


class Averaged(nn.Module):
    """A wrapper as trainers write them: the model, and an average of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.average = model, copy.deepcopy(model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, ModelEmaV3, Averaged, nn.Sequential])
def test_a_wrapper_is_told_for_the_model_inside(wrap: Callable[[nn.Module], Any]) -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    wrapped = wrap(edited)
    surgery.set_progress(wrapped, 0.5, step=3)
    assert progress_of(wrapped) == (0.5, 3)
    inner = [module for module in wrapped.modules() if surgery.history_of(module)]
    assert inner
    assert {progress_of(network) for network in inner} == {(0.5, 3)}
    surgery.settle(wrapped)
    for network in inner:
        assert [edit["fade"] for step in surgery.history_of(network) for edit in step.data["edits"]] == [False, False]


def test_what_was_settled_through_a_wrapper_is_saved_settled(tmp_path: Path) -> None:
    model, edited = fading(models.ResidualNet, surgery.erase_relu(fade=True))
    finish(nn.DataParallel(edited))
    surgery.save(edited, tmp_path)
    assert_same_function(surgery.load(tmp_path, models.ResidualNet()), edited, picture())
    assert_same_function(surgery.undo(edited), model, picture())


def test_a_model_edited_around_an_edited_part_is_settled_in_both_histories() -> None:
    part = randomise(models.BottleneckNet())
    surgery.transform_(part, surgery.erase_relu(fade=True), picture())
    whole = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), part)
    surgery.transform_(whole, surgery.swap("gelu", site="1", fade=True), picture())
    finish(whole)
    surgery.undo(part)
    assert isinstance(whole[1], nn.GELU)
    surgery.undo(whole)
    assert isinstance(whole[1], nn.ReLU)


# Over a part of the progress


PARTS = [((0.0, 1.0), 0.3, 0.3), ((0.2, 0.6), 0.1, 0.0), ((0.2, 0.6), 0.2, 0.0), ((0.2, 0.6), 0.3, 0.25),
         ((0.2, 0.6), 0.6, 1.0), ((0.2, 0.6), 0.9, 1.0), ((0, 0.5), 0.25, 0.5)]  # fmt: skip


def fades(model: nn.Module) -> list[Fade]:
    return [module for module in model.modules() if isinstance(module, Fade)]


@pytest.mark.parametrize(("over", "progress", "faded"), PARTS)
def test_a_fade_goes_over_its_part_of_the_progress(over: tuple[float, float], progress: float, faded: float) -> None:
    model, edited = fading(models.ResidualNet, surgery.erase_relu(fade=over))
    assert {fade.over for fade in fades(edited)} == {over}
    surgery.set_progress(edited, progress)
    assert all(float(fade.progress) == pytest.approx(faded, abs=1e-6) for fade in fades(edited))
    if faded in (0, 1):
        wanted = model if faded == 0 else surgery.transform(model, surgery.erase_relu(), picture())[0]
        assert_same_results(edited, wanted, picture())


@given(st.floats(0, 0.9), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30)
def test_a_fade_never_goes_back(begin: float, width: float, first: float, other: float) -> None:
    fade = Fade(nn.ReLU(), nn.Identity(), over=(begin, min(begin + width, 1.0)))
    shares = []
    for progress in (0.0, *sorted((first, other)), 1.0):
        fade.set_progress(progress)
        shares.append(float(fade.progress))
    assert shares == sorted(shares) and (shares[0] == 0 or begin == 0) and shares[-1] == 1


@pytest.mark.parametrize(
    "fade", [(0.5, 0.5), (0.8, 0.2), (-0.1, 0.5), (0.2, 1.1), (0.1,), (0.1, 0.2, 0.3), (float("nan"), 0.5), ("0", "1")]
)
@pytest.mark.parametrize("make", [surgery.erase_relu, lambda **options: surgery.swap("gelu", **options)])
def test_a_part_of_the_progress_is_two_fractions_in_order(make: Callable[..., Rule], fade: Any) -> None:
    assert_raises(surgery.BadValue, lambda: make(fade=fade), "`fade`", repr(fade), "(0.1, 0.8)")
    assert_raises(surgery.BadValue, lambda: make(fade=list(fade)), "`fade`")


def test_a_list_is_a_part_too() -> None:
    assert surgery.swap("gelu", fade=[0.1, 0.8]) == surgery.swap("gelu", fade=(0.1, 0.8))  # type: ignore[arg-type]
    assert hash(surgery.erase_relu(fade=[0, 0.5])) == hash(surgery.erase_relu(fade=(0, 0.5)))  # type: ignore[arg-type]


def test_a_part_of_the_progress_is_saved_and_loaded(tmp_path: Path) -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=(0.2, 0.6)))
    surgery.set_progress(edited, 0.3, step=7)
    surgery.save(edited, tmp_path)
    (step,) = json.loads((tmp_path / "surgery.json").read_text())["steps"]
    assert [edit["fade"] for edit in step["data"]["edits"]] == [[0.2, 0.6], [0.2, 0.6]]
    loaded = surgery.load(tmp_path, models.ResidualNet())
    assert [fade.over for fade in fades(loaded)] == [(0.2, 0.6)] * 2
    assert progress_of(loaded) == (0.3, 7)
    assert_same_function(loaded, edited, picture())
    surgery.settle(loaded)
    surgery.save(loaded, tmp_path / "settled")
    again = surgery.load(tmp_path / "settled", models.ResidualNet())
    assert fades(again) == [] and len(surgery.find_sites(again, picture())) == 3


def test_settling_before_a_part_begins_jumps_to_its_end() -> None:
    model, edited = fading(models.ResidualNet, surgery.erase_relu(fade=(0.5, 0.9)))
    surgery.set_progress(edited, 0.2)
    surgery.settle(edited)
    final, _ = surgery.transform(model, surgery.erase_relu(), picture())
    assert_same_function(edited, final, picture())
    surgery.settle(edited)
    assert_same_function(edited, final, picture())
    assert [edit["fade"] for edit in surgery.history_of(edited)[0].data["edits"]] == [False, False]


def test_copies_of_an_average_fade_over_the_same_part() -> None:
    _, edited = fading(models.ResidualNet, surgery.erase_relu(fade=(0.2, 0.6)))
    averaged = ModelEmaV3(edited)
    for network in (edited, averaged):
        surgery.set_progress(network, 0.4)
    assert [float(fade.progress) for fade in fades(averaged)] == [float(fade.progress) for fade in fades(edited)]
    assert float(fades(averaged)[0].progress) == pytest.approx(0.5)
    assert fades(averaged)[0].progress is not fades(edited)[0].progress


def test_rules_with_parts_of_their_own() -> None:
    rules = [surgery.swap("gelu", position=1, fade=(0, 0.5)), surgery.swap("silu", position=2, fade=(0.5, 1))]
    edited, report = surgery.transform(randomise(models.BottleneckNet()), rules, picture())
    surgery.set_progress(edited, 0.5)
    assert sorted(float(fade.progress) for fade in fades(edited)) == [0, 0, 1, 1]
    assert {edit.fade for edit in report.plan.edits} == {(0, 0.5), (0.5, 1)}
    assert str(report.plan).count("(fading)") == 4


# To a line


def test_a_relu_fades_to_its_affine_stand_in() -> None:
    model = randomise(models.PreActNet())
    rule = surgery.erase_relu(stand_in="affine", fade=True)
    edited, report = surgery.transform(model, rule, picture())
    assert "being erased, with an affine stand-in" in str(report)
    assert [site.activation for site in report.after].count("fade") == 2
    assert_same_results(edited, model, picture())
    hard, hard_report = surgery.transform(model, surgery.erase_relu(stand_in="affine"), picture())
    surgery.set_progress(edited, 1.0)
    assert_same_results(edited, hard, picture())
    surgery.settle(edited)
    assert_same_function(edited, hard, picture())
    assert [type(module) for module in edited.modules() if isinstance(module, Affine | Fade)] == [Affine, Affine]
    assert len(surgery.find_sites(edited, picture())) == len(hard_report.after) == 3
    assert_same_function(surgery.undo(edited), model, picture())


def test_a_fade_to_a_line_is_saved_and_loaded(tmp_path: Path) -> None:
    _, edited = fading(models.PreActNet, surgery.erase_relu(stand_in="affine", fade=(0.1, 0.8)))
    surgery.set_progress(edited, 0.5)
    surgery.save(edited, tmp_path)
    assert_same_function(surgery.load(tmp_path, models.PreActNet()), edited, picture())
    surgery.settle(edited)
    surgery.save(edited, tmp_path)
    assert_same_function(surgery.load(tmp_path, models.PreActNet()), edited, picture())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [models.PreActNet, models.ResidualNet, models.TinyVit])
def test_where_lines_stand_in_no_activation_is_left(kind: type[models.Stated]) -> None:
    model = randomise(kind())
    edited, report = surgery.transform(model, surgery.erase(stand_in="affine"), kind.example)
    assert list(report.after) == []
    lines = [module for module in edited.modules() if isinstance(module, Affine)]
    assert [len(line.weight) for line in lines] and len(lines) == len(report.before)
    assert sorted(len(line.weight) for line in lines) == sorted(site.channels for site in report.before)
    x = kind.example
    with torch.no_grad():
        apart = [surgery.transform(model, rule, x)[0].eval()(x) for rule in (surgery.erase(), surgery.swap("relu"))]
        assert edited.eval()(x).shape == apart[0].shape
        if kind is models.PreActNet:
            assert not torch.allclose(edited(x), apart[0], atol=1e-3)  # these lines are not identities


# Everything that moves, at once


def test_one_progress_moves_all_that_changes() -> None:
    model = randomise(models.BottleneckNet())
    rules = [
        surgery.swap("gelu", position=1, fade=(0.0, 0.5)),
        surgery.swap("pwlu", position=2, warmup=0.4),
        surgery.swap("frelu", position=3, alternate="slopes", every=10),
    ]
    edited, _ = surgery.transform(model.train(), rules, picture())
    edited(picture())  # it must gather for a while

    def state() -> tuple[set[float], set[bool], set[int | None]]:
        parts = list(edited.modules())
        return (
            {round(float(part.progress), 4) for part in parts if isinstance(part, Fade)},
            {part.gathering for part in parts if isinstance(part, PWLU)},
            {part.phase for part in parts if isinstance(part, FReLU)},
        )

    assert state() == ({0.0}, {True}, {None})
    surgery.set_progress(edited, 0.25, step=5)
    assert state() == ({0.5}, {True}, {0})
    surgery.set_progress(edited, 0.45, step=15)
    assert state() == ({0.9}, {False}, {1})
    surgery.set_progress(edited, 0.6, step=25)
    assert state() == ({1.0}, {False}, {0})
    copied = copy.deepcopy(edited)
    surgery.settle(edited)
    assert state() == (set(), {False}, {None})
    assert {module.phase for module in copied.modules() if isinstance(module, FReLU)} == {0}


# Settled for good


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [surgery.swap("pwlu", warmup=0.2), surgery.swap("frelu", alternate="weights", every=3)], ids=str
)
def test_what_settled_changes_no_more(rule: surgery.Rule, tmp_path: Path) -> None:
    model, _ = surgery.transform(models.ResidualNet(), rule, picture())
    surgery.set_progress(model, 0.1, step=3)
    model.train()(picture())
    surgery.settle(model)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "relu" in name:
                param.add_(0.25)
    model.eval()
    before = model(picture())
    for step in (0, 3):
        surgery.set_progress(model, 0.05, step=step)
        assert torch.equal(model(picture()), before)
        assert all(param.requires_grad for param in model.parameters())
    assert not any("warmup" in edit["params"] or "alternate" in edit["params"] for edit in edits_of(model))
    surgery.save(model, tmp_path)
    again = surgery.load(tmp_path, models.ResidualNet()).eval()
    assert torch.equal(again(picture()), before)
    assert set(again.state_dict()) == set(model.state_dict())


def edits_of(model: nn.Module) -> list[dict[str, Any]]:
    return [edit for step in surgery.history_of(model) for edit in step.data["edits"]]


def test_a_pwlu_from_a_file_computes_what_it_learned() -> None:
    rule = surgery.swap("pwlu", warmup=0.2)
    model, _ = surgery.transform(models.ResidualNet(), rule, picture())
    surgery.set_progress(model, 0.5)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "heights" in name:
                param.add_(0.5)
    fresh, _ = surgery.transform(models.ResidualNet(), rule, picture())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(picture()), model.eval()(picture()))


def test_the_ends_of_a_fade_are_whole_functions() -> None:
    x = torch.tensor([-torch.inf, torch.inf, 1.0])
    fade = surgery.activations.Fade(nn.ReLU(), nn.Identity())
    assert torch.equal(fade(x), F.relu(x))
    fade.set_progress(1.0)
    assert torch.equal(fade(x), x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"progress": "a"},
        {"progress": torch.tensor(0.5)},
        {"progress": 1.5},
        {"progress": 0.5, "step": "3"},
        {"progress": 0.5, "step": -1},
    ],
    ids=str,
)
def test_a_wrong_progress_moves_nothing(wrong: dict[str, Any]) -> None:
    model, _ = surgery.transform(models.ResidualNet(), surgery.erase_relu(fade=True), picture())
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert_raises(surgery.BadValue, lambda: surgery.set_progress(model, **wrong))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert_raises(surgery.BadValue, lambda: surgery.settle(5), "not a model")  # type: ignore[arg-type]


def test_whether_calls_still_fade_is_checked() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    fading, _ = surgery.transform(model, surgery.swap("silu", fade=True, site="1"), x)
    error = assert_raises(BadValue, lambda: check_settled(surgery.find_sites(fading, x)), "Sequential still fades", "1")
    assert isinstance(error, BadValue) and [str(site) for site in error.sites] == ["1"]
    surgery.set_progress(fading, 1.0)
    check_settled(surgery.find_sites(surgery.settle(fading), x))
