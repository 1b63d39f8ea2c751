"""Suggestions: the recipes that fit a model, ordered by what they did for a goal."""

from __future__ import annotations

from dataclasses import replace

import pytest

import recipes
from recipes.check import suggestions
from recipes.check.suggestions import find
from recipes.format.effects import Effect, Effects
from surgery.errors import BadValue, NothingPicked, UnknownName
from tests.asserts import assert_raises

EFFECT = Effect(
    recipe="resnet-erase-last", network="ResNet-20", before=0.9, after_surgery=0.4, accuracy=0.87, control=0.91,
    difference=-0.04, error=0.005, seconds=30.0, parameters_before=1000, parameters=1000, macs_before=500, macs=500,
    relus_before=200, relus=100, density=1.0, ms=1.2, time=1.1, merged_time=0.7,
)  # fmt: skip
MADE = Effects(
    "One seed.",
    (
        EFFECT,
        replace(EFFECT, recipe="resnet-swap-prelu", difference=0.01, time=1.2, merged_time=None, relus=200),
        replace(EFFECT, recipe="resnet-budget", difference=-0.02, time=0.8, merged_time=0.9, relus=160),
        replace(EFFECT, recipe="vit-swap-relu", difference=0.5),
    ),
)


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "all_effects", lambda: MADE)


@pytest.mark.parametrize(
    ("goal", "order"),
    [
        ("accuracy", ["resnet-swap-prelu", "resnet-budget", "resnet-erase-last"]),
        ("speed", ["resnet-erase-last", "resnet-budget", "resnet-swap-prelu"]),
        ("relu-count", ["resnet-erase-last", "resnet-budget", "resnet-swap-prelu"]),
    ],
)
def test_what_did_most_for_the_goal_comes_first_and_the_unmeasured_last(goal: str, order: list[str]) -> None:
    found = find("cifar/resnet20", goal)
    assert [row.recipe for row in found][:3] == order
    assert all(row.effect is None for row in found[3:]) and len(found) == len(recipes.names("resnet-*"))
    assert [row.recipe for row in found[3:]] == sorted(row.recipe for row in found[3:])


def test_the_table_has_the_figures_and_what_they_mean() -> None:
    found = find("cifar/resnet20", "speed")
    lines = str(found).splitlines()
    assert lines[0] == f"{len(found)} recipes for cifar/resnet20, the fastest first"
    assert lines[2].split() == ["resnet-erase-last", "9", "-4.0", "±", "0.5", "1.10x", "0.70x", "50%", "ResNet-20"]
    assert "not measured" in lines[6] and lines[-1] == "One seed." and "untouched" in " ".join(lines[-3:-1])
    assert "recipes for the speed of cifar/resnet20" in repr(found) and "<td>0.70x</td>" in found._repr_html_()
    facts = found.facts()
    assert facts["recipes"][0]["effect"]["merged_time"] == 0.7 and facts["recipes"][0]["picks"] == 9


def test_recipes_of_the_family_fit_models_that_they_do_not_name() -> None:
    found = find("timm/test_resnet")
    assert {row.recipe for row in found} <= set(recipes.names("resnet-*")) and not any(row.named for row in found)
    assert "resnet-swap-prelu" in {row.recipe for row in found}


@pytest.mark.slow
def test_the_calls_that_a_target_has_no_operators_for_are_counted() -> None:
    # 19 hard swishes are computed in float between int8 layers of ONNX Runtime, a SiLU is not; hard sigmoids stay.
    found = find("timm/mobilenetv3_small_100", "deploy:onnxruntime:int8")
    lacking = {row.recipe: row.lacking for row in found}
    assert found[0].recipe == "mobilenet-deploy-int8" and found.lacking is not None and found.calls == 42
    assert lacking["mobilenet-deploy-int8"] == found.lacking - 19
    assert f"good operators first: {found.lacking} of 42 do as it is" in str(found).splitlines()[0]


def test_dropped_blocks_take_their_calls_along_and_erased_calls_need_no_operator() -> None:
    calls = {row.recipe: row.calls for row in find("cifar/resnet56", "deploy:ncnn")}
    assert (calls["resnet-swap-prelu"], calls["resnet-budget"], calls["resnet-erase-last"]) == (55, 47, 28)


@pytest.mark.parametrize(
    ("goal", "error", "hint"),
    [
        ("sped", UnknownName, "speed"),
        ("deploy", UnknownName, "deploy:onnxruntime"),
        ("deploy:ncn", UnknownName, "deploy:ncnn"),
        ("deploy:ncnn:int8", BadValue, "deploy:ncnn:fp32"),
    ],
)
def test_an_unknown_goal_shows_those_that_there_are(goal: str, error: type[Exception], hint: str) -> None:
    assert_raises(error, lambda: find("cifar/resnet20", goal), hint)


def test_a_model_that_no_recipe_fits_gets_a_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "names", lambda: ["vit-swap-relu"])
    assert_raises(NothingPicked, lambda: find("cifar/resnet20"), "surgery recipes new cifar/resnet20")
