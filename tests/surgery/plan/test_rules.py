"""Rules: they check themselves, print as the call that makes them, and survive a file."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from torch import nn

import surgery
from surgery.plan.rules import Recipe, Rule
from tests.asserts import assert_raises


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"location": "end"}, "location"),
        ({"location": 0}, "location"),
        ({"location": True}, "location"),
        ({"location": 1.5}, "location"),
        ({"share": -0.1}, "share"),
        ({"share": 1.01}, "share"),
        ({"share": "half"}, "share"),
        ({"share": True}, "share"),
        ({"share": float("nan")}, "share"),
        ({"order": "random"}, "order"),
        ({"preactivation": "middle"}, "preactivation"),
        ({"vgg_odd": "drop"}, "vgg_odd"),
        ({"expect": -1}, "expect"),
        ({"expect": 1.5}, "expect"),
        ({"expect": True}, "expect"),
    ],
    ids=str,
)
def test_an_argument_outside_its_range_is_refused_by_name(options: dict[str, Any], word: str) -> None:
    assert_raises(surgery.BadValue, lambda: surgery.erase_relu(**options), f"`{word}`", str(*options.values()))


def test_bad_values_are_value_errors_too() -> None:
    with pytest.raises(ValueError, match="share"):
        surgery.erase_relu(share=2)


@pytest.mark.parametrize("location", ["first", "middle", "last", 1, 3, -1, -2])
def test_every_documented_location_is_taken(location: str | int) -> None:
    assert dict(surgery.erase_relu(location).pick)["location"] == location


def test_the_documented_defaults() -> None:
    rule = surgery.erase_relu()
    assert dict(rule.pick) == {
        "location": "last", "share": 1.0, "order": "spread", "stem": False, "keep_final": False,
        "preactivation": "last", "vgg_odd": "keep", "activation": ("relu", "relu6"),
    }  # fmt: skip
    assert (rule.use, rule.make, rule.params, rule.fade) == ("erase_relu", "identity", (), False)
    assert (rule.expect, rule.optional, rule.remaining) == (None, False, False)


def test_rules_are_plain_data() -> None:
    rule = surgery.swap("leaky_relu", block="layer3.*", negative_slope=0.2, expect=4)
    assert rule == surgery.swap("leaky_relu", block="layer3.*", negative_slope=0.2, expect=4)
    assert rule != surgery.swap("leaky_relu", block="layer3.*", negative_slope=0.1, expect=4)
    assert len({rule, pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)}) == 1
    with pytest.raises(AttributeError):
        rule.expect = 3  # type: ignore[misc]


def test_swap_tells_facts_of_a_site_from_parameters_of_the_function() -> None:
    rule = surgery.swap("elu", owner="a.*", alpha=0.5, position=1)
    assert dict(rule.pick) == {"owner": "a.*", "position": 1, "role": "nonlinearity"}
    assert rule.params == (("alpha", 0.5),)
    assert surgery.swap("elu", params={"alpha": 0.5}).params == rule.params


def test_gates_are_asked_for_by_role_or_by_site() -> None:
    assert dict(surgery.swap("relu").pick)["role"] == "nonlinearity"
    assert dict(surgery.swap("relu", role="gate").pick) == {"role": "gate"}
    assert dict(surgery.swap("relu", site="se.gate").pick) == {"site": "se.gate"}


def test_an_unknown_keyword_names_what_there_is() -> None:
    assert_raises(surgery.UnknownName, lambda: surgery.swap("elu", alhpa=1.0), "'alhpa'", "'elu'", "alpha")
    assert_raises(surgery.UnknownName, lambda: surgery.swap("relu", blok="a"), "'blok'", "none", "block")
    assert_raises(surgery.UnknownName, lambda: surgery.swap("relu", params={"block": "a"}), "'block'")


def test_a_learned_function_may_recompute_its_input() -> None:
    rule = surgery.swap("pwlu", memory="recompute", intervals=8)
    assert rule.params == (("intervals", 8), ("memory", "recompute"))
    assert str(rule) == "swap('pwlu', role='nonlinearity', intervals=8, memory='recompute')"
    assert surgery.swap("pwlu", memory="keep") == surgery.swap("pwlu")
    assert surgery.swap("pwlu", params={"memory": "recompute"}) == surgery.swap("pwlu", memory="recompute")
    assert_raises(
        surgery.BadValue, lambda: surgery.swap("relu", memory="recompute"), "'relu' cannot recompute", "'keep'"
    )
    assert_raises(surgery.BadValue, lambda: surgery.swap("pwlu", memory="drop"), "memory='drop'", "'recompute'")


def test_the_head_has_a_rule_of_its_own() -> None:
    assert_raises(surgery.BadValue, lambda: surgery.swap("rectified_scores"), "classifier", "rectify_scores()")


def test_an_erased_relu_begins_as_itself_or_as_a_line() -> None:
    assert surgery.erase_relu(start="affine", fade=True).start == "affine"
    assert_raises(surgery.BadValue, lambda: surgery.erase_relu(start="own"), "'own'", "same, affine")


@pytest.mark.parametrize("fade", [(False, True), (0.5, 0.5), (0.1,), "slow"], ids=str)
def test_a_fade_is_a_part_of_the_progress(fade: Any) -> None:
    assert_raises(surgery.BadValue, lambda: surgery.erase_relu(fade=fade), repr(fade), "(0.1, 0.8)")


def test_an_unknown_function_names_the_nearest() -> None:
    assert_raises(surgery.UnknownName, lambda: surgery.swap("leakyrelo"), "'leakyrelo'", "leaky_relu")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (surgery.swap("gelu"), "swap('gelu', role='nonlinearity')"),
        (surgery.swap("elu", block="a.*", alpha=2.0), "swap('elu', block='a.*', role='nonlinearity', alpha=2.0)"),
        (surgery.swap("gelu", site="act 1/2", fade=True), "swap('gelu', site='act 1/2', fade=True)"),
        (
            surgery.swap("gelu", role="head", optional=True, remaining=True, expect=0),
            "swap('gelu', role='head', optional=True, remaining=True, expect=0)",
        ),
    ],
)
def test_a_rule_prints_as_the_call_that_makes_it(rule: Rule, text: str) -> None:
    assert str(rule) == text
    assert eval(text, {"swap": surgery.swap}) == rule


def test_erase_relu_prints_as_the_call_that_makes_it() -> None:
    rule = surgery.erase_relu("first", 0.5, "back", stem=True, fade=True, expect=3)
    assert eval(str(rule), {"erase_relu": surgery.erase_relu}) == rule


def test_erase_is_a_swap_to_the_identity() -> None:
    assert surgery.erase(block="a") == surgery.swap("identity", block="a")


def test_a_recipe_is_rules_under_a_name() -> None:
    recipe = Recipe("mine", (surgery.erase_relu(),), about="Erase.")
    assert recipe == Recipe("mine", (surgery.erase_relu(),), about="Erase.")
    assert (recipe.source, recipe.models) == ("", ())


@pytest.mark.parametrize("name", ["fade", "optional", "remaining", "stem", "keep_final"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_switch_is_on_or_off(name: str, value: object) -> None:
    switch: dict[str, Any] = {name: value}
    assert_raises(surgery.BadValue, lambda: surgery.erase_relu(**switch), f"`{name}`", f"{name}={value!r}")
    if name in ("fade", "optional", "remaining"):
        assert_raises(surgery.BadValue, lambda: surgery.swap("gelu", **switch), f"`{name}`")


@pytest.mark.parametrize("name", [5, None, ["gelu"]], ids=str)
def test_a_function_is_asked_for_by_name(name: Any) -> None:
    assert_raises(surgery.BadValue, lambda: surgery.swap(name), repr(name))


def test_a_rule_knows_functions_by_their_first_name() -> None:
    assert surgery.swap("swish1") == surgery.swap("silu")
    assert surgery.swap("none") == surgery.erase()


def test_lists_of_patterns_are_tuples_of_patterns() -> None:
    assert surgery.swap("silu", activation=["relu", "gelu"]) == surgery.swap("silu", activation=("relu", "gelu"))
    assert surgery.erase_relu(activation=["relu", "relu6"]) == surgery.erase_relu()


def test_a_pattern_for_what_is_in_no_block_is_printed() -> None:
    rule = surgery.swap("silu", block=None)
    assert str(rule) == "swap('silu', block=None, role='nonlinearity')"
    assert rule != surgery.swap("silu")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (surgery.rectify_scores(), "rectify_scores(reading='scores')"),
        (
            surgery.rectify_scores("shares", expect=1, remaining=True),
            "rectify_scores(reading='shares', remaining=True, expect=1)",
        ),
        (surgery.swap("gelu", fade=(0.1, 0.8)), "swap('gelu', role='nonlinearity', fade=(0.1, 0.8))"),
        (surgery.erase(stand_in="affine"), "swap('affine', role='nonlinearity')"),
        (
            surgery.swap("prelu", start="own", optional=True),
            "swap('prelu', role='nonlinearity', start='own', optional=True)",
        ),
    ],
)
def test_a_rule_of_another_kind_prints_as_the_call_that_makes_it(rule: Rule, text: str) -> None:
    assert str(rule) == text
    assert eval(text, {"swap": surgery.swap, "rectify_scores": surgery.rectify_scores}) == rule


def test_erasing_with_a_line_prints_as_the_call_that_makes_it() -> None:
    rule = surgery.erase_relu(stand_in="affine", fade=(0.25, 0.5))
    assert "stand_in='affine'" in str(rule) and rule.make == "affine"
    assert eval(str(rule), {"erase_relu": surgery.erase_relu}) == rule
    assert "stand_in" not in str(surgery.erase_relu())


@pytest.mark.parametrize("make", [surgery.erase_relu, surgery.erase])
def test_a_stand_in_is_one_of_two(make: Any) -> None:
    assert make(stand_in="affine").make == "affine"
    assert_raises(surgery.BadValue, lambda: make(stand_in="linear"), "`stand_in`", "'linear'", "affine")


def test_a_head_rule_picks_by_itself() -> None:
    rule = surgery.rectify_scores()
    assert (rule.use, rule.pick, rule.make) == ("rectify_scores", (), "rectified_scores")
    assert dict(rule.params) == {"reading": "scores"}
    assert (rule.fade, rule.expect, rule.optional, rule.remaining) == (False, None, False, False)
    assert_raises(surgery.BadValue, lambda: surgery.rectify_scores(optional=1), "`optional`")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to", "rule"),
    [
        ("GELU", surgery.swap("gelu")),
        ("LeakyReLU", surgery.swap("leaky_relu")),
        ("Hard_Swish", surgery.swap("hardswish")),
        (nn.GELU, surgery.swap("gelu")),
        (nn.PReLU, surgery.swap("prelu")),
        (nn.Identity, surgery.swap("identity")),
        (surgery.activations.PWLU, surgery.swap("pwlu")),
        (nn.ReLU(inplace=True), surgery.swap("relu")),
        (nn.GELU(approximate="tanh"), surgery.swap("gelu_tanh")),
        (nn.LeakyReLU(), surgery.swap("leaky_relu")),
        (nn.LeakyReLU(0.25), surgery.swap("leaky_relu", negative_slope=0.25)),
        (nn.Hardtanh(0, 6), surgery.swap("relu6")),
        (nn.Identity(), surgery.swap("identity")),
    ],
    ids=str,
)
def test_an_activation_is_asked_for_by_name_by_class_or_by_example(to: Any, rule: Rule) -> None:
    assert surgery.swap(to) == rule


def test_a_keyword_beside_an_example_wins() -> None:
    assert surgery.swap(nn.ELU(2.0), alpha=3.0) == surgery.swap("elu", alpha=3.0)


@pytest.mark.parametrize(
    ("to", "error", "words"),
    [
        (nn.Linear, surgery.UnknownName, ("Linear", "register")),
        (nn.Linear(2, 2), surgery.UnknownName, ("Linear", "register")),
        (nn.PReLU(), surgery.BadValue, ("PReLU", "'prelu'", "per, init")),
        (surgery.activations.HeLU(0.1), surgery.BadValue, ("HeLU", "'helu'", "alpha")),
        (surgery.activations.RectifiedScores, surgery.BadValue, ("rectify_scores()",)),
        (nn.functional.gelu, surgery.BadValue, ("'gelu'",)),
    ],
    ids=str,
)
def test_what_is_no_activation_is_refused(to: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    assert_raises(error, lambda: surgery.swap(to), *words)


def test_a_class_of_ones_own_is_known_once_it_is_registered() -> None:
    class Squared(nn.ReLU):
        def forward(self, x: Any) -> Any:
            return super().forward(x).square()

    assert_raises(surgery.UnknownName, lambda: surgery.swap(Squared), "register('squared', Squared)")
    surgery.activations.register("my_square", Squared)
    assert surgery.swap(Squared).make == "my_square"
