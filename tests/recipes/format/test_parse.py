"""Recipe files: they are read as written, all mistakes are reported together, and nothing in them is run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import surgery
from recipes.format.parse import FORMAT, parse, to_toml, versions
from recipes.format.recipe import Recipe
from recipes.format.settings import Choice, Finetune, Pruning
from recipes.format.write import rule_line
from surgery.errors import BadFile
from tests.asserts import assert_raises

WHOLE = """
format = 1
about = "Erase and swap."
source = "nowhere"
models = ["timm/resnet50", "cifar/resnet20"]

[[rule]]
use = "erase_relu"
share = 0.5
fade = [0.1, 0.8]
expect = { "timm/resnet50" = 8 }

[[rule]]
use = "swap"
to = "pwlu"
warmup = 0.1
block = ["layer3.*", false]
remaining = true
expect = 3

[pruning]
criterion = "lamp"
ap_share = 0.02

[finetune]
opt = "adamw"
lr = 1e-4

[result]
versions = { torch = "2.11.0", torchvision = "0.26.0", timm = "1.0.23", format = 1 }
model = "timm/resnet50"
after = { top1 = 75.5, images_s = 400 }
"""


def test_a_file_is_the_recipe_it_says() -> None:
    assert parse(WHOLE, "mine") == Recipe(
        "mine",
        (
            surgery.erase_relu(share=0.5, fade=(0.1, 0.8)),
            surgery.swap("pwlu", warmup=0.1, block=("layer3.*", None), remaining=True, expect=3),
        ),
        "Erase and swap.",
        "nowhere",
        ("timm/resnet50", "cifar/resnet20"),
        ({"timm/resnet50": 8}, {}),
        Pruning(criterion="lamp", ap_share=0.02),
        Finetune(opt="adamw", lr=1e-4),
    )


CHOSEN = """format = 2
models = ["cifar/resnet56"]

[[rule]]
use = "drop"
block = ["layer1.4"]

[choose]
model = "cifar/resnet56"
menu = "erase, drop"
budget = "speedup=1.1"
cost_before = 12.5
damage = 0.034
damage_error = 0.003
"""


def test_a_file_may_say_how_it_was_chosen() -> None:
    recipe = parse(CHOSEN, "chosen")
    assert recipe.choice == Choice(
        model="cifar/resnet56", menu="erase, drop", budget="speedup=1.1", cost_before=12.5, damage=0.034,
        damage_error=0.003,
    )  # fmt: skip
    assert recipe.rules == (surgery.drop(block=("layer1.4",)),) and to_toml(recipe) == CHOSEN
    assert recipe.left_out == ()  # it is a record, not something to do


def test_the_format_is_the_oldest_that_has_what_is_in_the_file() -> None:
    assert to_toml(Recipe("mine", (surgery.erase_relu(),))).startswith("format = 1\n") and FORMAT == 2
    assert parse(WHOLE.replace("format = 1\n", "format = 2\n", 1), "mine") == parse(WHOLE, "mine")
    older = CHOSEN.replace("format = 2", "format = 1")
    assert_raises(BadFile, lambda: parse(older), "top of the file: choose needs format = 2")


def test_a_wrong_record_of_a_choice_is_refused() -> None:
    wrong = CHOSEN.replace("damage = 0.034", "damage = -1").replace("menu", "menue")
    assert_raises(BadFile, lambda: parse(wrong), "[choose]: menue: unknown option; near: menu", "damage is at least 0")
    assert_raises(BadFile, lambda: parse({"format": 2, "choose": {}}), "nothing to do")


def test_what_a_rule_must_pick_depends_on_the_model() -> None:
    recipe = parse(WHOLE)
    assert [rule.expect for rule in recipe.rules_for("timm/resnet50")] == [8, 3]
    assert [rule.expect for rule in recipe.rules_for("cifar/resnet20")] == [None, 3]


def rule(**table: Any) -> dict[str, Any]:
    return {"format": 1, "rule": [table]}


@pytest.mark.parametrize(
    ("table", "made"),
    [
        ({"use": "erase", "block": "layer4.*", "position": 1}, surgery.erase(block="layer4.*", position=1)),
        ({"use": "erase", "stand_in": "affine", "per": "layer"}, surgery.erase(stand_in="affine", per="layer")),
        ({"use": "rectify_scores", "reading": "shares"}, surgery.rectify_scores("shares")),
        ({"use": "erase_relu", "start": "affine", "fade": True}, surgery.erase_relu(start="affine", fade=True)),
        ({"use": "erase_relu", "location": 1, "stem": True}, surgery.erase_relu(1, stem=True)),
        ({"use": "swap", "to": "silu", "params": {}}, surgery.swap("silu")),
        ({"use": "swap", "to": "prelu", "params": {"init": 0.1}}, surgery.swap("prelu", init=0.1)),
        ({"use": "swap", "to": "silu", "position": False}, surgery.swap("silu", position=None)),
        ({"use": "swap", "to": "silu", "inplace": False}, surgery.swap("silu", inplace=False)),
    ],
    ids=str,
)
def test_a_table_is_the_rule_it_says(table: dict[str, Any], made: surgery.Rule) -> None:
    recipe = parse(rule(**table))
    assert recipe.rules == (made,)
    assert parse(to_toml(recipe)) == recipe


def test_all_mistakes_are_told_at_once() -> None:
    wrong = """
    format = 3
    abuot = "x"
    models = ["resnet50"]
    [[rule]]
    use = "erase_relu"
    share = 5
    locatoin = "last"
    start = "affine"
    [[rule]]
    use = "swap"
    to = "pwlu"
    warmup = 3
    blok = "layer1"
    block = "re:("
    [[rule]]
    use = "erse"
    [pruning]
    shar = 0.5
    [finetune]
    lr = "1"
    opt = "adam_w"
    [result]
    top1 = [1.0]
    """
    assert_raises(
        BadFile,
        lambda: parse(wrong, "mine.toml"),
        "mine.toml has 15 problems:",
        "top of the file: abuot: unknown key; near: about",
        "format is 2 at most here, not 3",
        "models: 'resnet50' is not a full name",
        "[[rule]] 1: share = 5: `share` is a fraction of the modules; hint: 0 to 1",
        "[[rule]] 1: locatoin: unknown key; near: location",
        "[[rule]] 1: start = 'affine': Only a fade can start",
        "[[rule]] 2: warmup = 3: ",
        "[[rule]] 2: blok = 'layer1'",
        "[[rule]] 2: block = 're:(': This is not a regular expression",
        "[[rule]] 3: use is one of erase_relu, swap, erase, rectify_scores, drop, move_padding, not 'erse'",
        "[pruning]: shar: unknown option; near: share",
        "[finetune]: lr is a number, not '1'",
        "[finetune]: opt is one of",
        "[result]: top1 is a number, a text, or a table of them, not [1.0]",
        "[result]: versions is a table with torch, torchvision, timm, format",
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("format = ", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("format = " + "1" * 5000, "is not TOML"),
        ({}, "format is 1 or 2, and is missing"),
        ({"format": 1}, "nothing to do"),
        ({"format": 1, "rule": []}, "nothing to do"),
        ({"format": True, "pruning": {}}, "format is 1 or 2, not True"),
        ({"format": 1, "pruning": 3}, "pruning is a table"),
        ({"format": 1, "rule": {"use": "swap"}}, "rule is a list of tables"),
        ({"format": 1, "about": 3, "pruning": {}}, "about is a text, not 3"),
        ({"format": 1, "models": "timm/a", "pruning": {}}, "models is a list"),
        ({"format": 1, "models": ["timm/"], "pruning": {}}, "not a full name"),
        (rule(), "use is one of erase_relu, swap, erase, rectify_scores, drop, move_padding, and is missing"),
        (rule(use=["swap"]), "not ['swap']"),
        (rule(use="swap"), "to: is missing"),
        (rule(use="swap", to="plwu"), "hint: pwlu"),
        (rule(use="swap", to=3), "to = 3"),
        (rule(use="swap", to="silu", block=1.5), "block is a pattern"),
        (rule(use="swap", to="silu", block=[]), "block is a pattern"),
        (rule(use="swap", to="silu", params=3), "params is a table"),
        (rule(use="swap", to="silu", params={"beta": 3}), "params = {'beta': 3}"),
        (rule(use="erase_relu", activation=1.5), "activation is a pattern"),
        (rule(use="erase_relu", expect=1.5), "expect = 1.5"),
        (rule(use="erase_relu", expect={"timm/a": -1}), "expect of timm/a is an integer, 0 or more, not -1"),
        (rule(use="erase_relu", expect={"a": 1}), "expect: 'a' is not a full name"),
        (rule(use="erase_relu", optional="yes"), "optional = 'yes'"),
        ({"format": 1, "finetune": {"lr": float("nan")}}, "a number is finite"),
        ({"format": 1, "finetune": {"lr": 10**400}}, "fits in 64 bits, not 1329 bits"),
        ("format = 1\nabout = 1979-05-27\n[pruning]", "a value is a number, a text"),
        ('format = 1\nabout = "\\u001b[31m"\n[pruning]', "readable characters"),
        ('format = 1\nabout = "\\u202e"\n[pruning]', "readable characters"),
        ({"format": 1, "about": "a" * 4001, "pruning": {}}, "at most 4000 readable characters, not 4001"),
        ({"format": 1, "\x1b": 1, "pruning": {}}, "a key is a short readable text"),
        ({"format": 1, "pruning": {}, "result": 3}, "it is a table, not 3"),
        ({"format": 1, "pruning": {}, "result": {"versions": {"torch": "2"}}}, "torchvision, timm, format missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named(given: Any, says: str) -> None:
    assert_raises(BadFile, lambda: parse(given), says)


def test_nothing_in_a_file_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("os.system", ran.append)
    for value in ("__import__('os').system('true')", "os:system", "{os.system}", "!!python/object"):
        for table in ({"use": value}, {"use": "swap", "to": value}, {"use": "erase_relu", "location": value}):
            assert_raises(BadFile, lambda table=table: parse(rule(**table)), "one problem")
        parse(rule(use="swap", to="silu", block=value))  # a pattern: text, and no more
    assert not ran


@pytest.mark.parametrize("to", ["pwlu", "npwlu"])
def test_no_memory_is_taken_for_what_a_file_asks_for(to: str) -> None:
    assert parse(rule(use="swap", to=to, intervals=512)).rules[0].params == (("intervals", 512),)
    for size in (4097, 10**12, 2**62):
        assert_raises(BadFile, lambda size=size: parse(rule(use="swap", to=to, intervals=size)), f"intervals = {size}")


def test_a_result_carries_the_versions() -> None:
    text = to_toml(Recipe("mine", (), finetune=Finetune()), {"model": "cifar/resnet20", "after": {"top1": 92.5}})
    assert set(versions()) == {"torch", "torchvision", "timm", "format"} and versions()["format"] == FORMAT
    assert text.splitlines()[-3:][1:] == ['model = "cifar/resnet20"', "after = { top1 = 92.5 }"]
    assert parse(text, "mine") == Recipe("mine", (), finetune=Finetune())


def test_a_rule_in_one_line() -> None:
    assert rule_line(surgery.erase_relu(expect=3)) == "erase_relu"
    made = surgery.swap("pwlu", block=("a", None), warmup=0.1, fade=(0.1, 0.5), start="own")
    assert rule_line(made) == 'swap: to = "pwlu", block = ["a", false], warmup = 0.1, start = "own", fade = [0.1, 0.5]'


@pytest.mark.slow
@settings(max_examples=40)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["rule", "use", "to", "pruning", "finetune", "expect", "models", "lr", "swap", "fade"]),
        inner, max_size=4,
    ),
    max_leaves=12,
))  # fmt: skip
def test_whatever_a_mapping_holds_it_is_a_recipe_or_a_bad_file(inner: Any) -> None:
    given = {"format": 1, "rule": [{"use": "swap", "to": "silu", "expect": inner, "fade": inner}, inner]}
    assert_raises(BadFile, lambda: parse(given | {"pruning": inner, "models": inner}), "problem")


def test_a_function_that_recomputes_its_input_is_read_and_written() -> None:
    text = 'format = 1\n[[rule]]\nuse = "swap"\nto = "prelu"\nmemory = "recompute"\n'
    recipe = parse(text, "mine")
    assert recipe.rules == (surgery.swap("prelu", memory="recompute"),)
    assert parse(to_toml(recipe), "mine") == recipe
    assert_raises(BadFile, lambda: parse(text.replace("recompute", "drop")), "memory = 'drop'", "'recompute'")
    assert_raises(BadFile, lambda: parse(text.replace("prelu", "gelu")), "memory = 'recompute'", "cannot recompute")
