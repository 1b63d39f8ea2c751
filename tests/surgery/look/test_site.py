"""Site and Sites: patterns, filters, groups, tables, JSON."""

from __future__ import annotations

import json
import string
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.errors import BadValue, SurgeryError, UnknownName
from surgery.look.site import Pattern, Site, Sites, computes, matches
from tests.asserts import assert_raises

RELU = Site(
    owner="layer1.0",
    method="forward",
    callee="self.relu",
    ordinal=2,
    iteration=None,
    run=1,
    runs=1,
    target="relu",
    turn=2,
    turns=2,
    owner_kind="BasicBlock",
    module="layer1.0.relu",
    activation="relu",
    inplace=True,
    role="nonlinearity",
    block="layer1.0",
    block_kind="BasicBlock",
    position=2,
    positions=2,
    joins_by="add",
    branch=None,
    fed_by=("add",),
    feeds=("conv", "add"),
    weights=("layer1.0.conv2.weight",),
    shape=(2, 64, 56, 56),
    channels=64,
    channel_axis=1,
    dtype="float32",
    device="cpu",
    modes=("eval", "train"),
)
FIRST = replace(RELU, ordinal=1, turn=1, position=1, fed_by=("norm",), feeds=("conv",))
GATE = replace(
    RELU, owner="layer2.0.se", callee="self.gate", target="gate", turn=1, turns=1, module="layer2.0.se.gate",
    activation="sigmoid", role="gate", block="layer2.0", position=None, positions=None, inplace=False,
    modes=("eval",), locked="no source",
)  # fmt: skip
STEM = replace(
    RELU, owner="", module="relu", turn=1, turns=1, block=None, block_kind=None, position=None, positions=None,
    joins_by=None,
)  # fmt: skip
HEAD = replace(STEM, owner="head", run=2, runs=3)


@pytest.fixture
def sites() -> Sites:
    return Sites((STEM, FIRST, RELU, GATE), model_kind="ResNet", unseen=(("train", "a batch of one"),))


def test_a_site_says_its_path_and_turn() -> None:
    assert STEM.path == "relu"
    assert RELU.path == "layer1.0.relu"
    assert str(STEM) == "relu"
    assert str(RELU) == "layer1.0.relu 2/2"
    assert str(HEAD) == "head.relu run 2/3"


def test_a_site_is_one_short_line_at_a_prompt() -> None:
    assert repr(RELU) == "<Site layer1.0.relu 2/2: relu, nonlinearity of layer1.0, 64 channels>"
    assert repr(STEM) == "<Site relu: relu, nonlinearity, 64 channels>"
    scores = replace(STEM, activation="none", target="fc", channels=10)
    assert repr([scores]) == "[<Site fc: behind the classifier, 10 channels>]"


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("ReLU", "relu", True), ("LeakyReLU", "leaky_relu", True), ("relu", "ReLU", True), ("GELU*", "gelu_tanh", True),
        ("ReLU", "relu6", False), ("*_relu", "relu", False), ("re:relu6?", "relu6", True), ("re:ReLU", "relu", False),
        (("SiLU", "GELU"), "gelu", True), (None, "gelu", False),
    ],
)  # fmt: skip
def test_activations_may_be_spelt_like_their_classes(pattern: Pattern, name: str, fits: bool) -> None:
    assert computes(pattern, name) is fits


def test_where_and_rules_take_activations_as_classes_are_spelt() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.LeakyReLU())
    found = surgery.find_sites(model, torch.rand(2, 3, 8, 8))
    assert [str(site) for site in found.where(activation="LeakyReLU")] == ["3"]
    assert [str(edit.site) for edit in surgery.make_plan(found, surgery.swap("silu", activation="ReLU")).edits] == ["1"]
    rule = surgery.erase_relu(activation=("ReLU", "LeakyReLU"))
    assert [str(edit.site) for edit in surgery.make_plan(found, rule).edits] == ["3"]


def test_the_key_is_the_place_of_the_call_and_nothing_else() -> None:
    assert RELU.key == ("layer1.0", "forward", "self.relu", 2, None, 1)
    assert RELU.key == replace(RELU, activation="gelu", shape=(1,), block=None).key
    assert RELU.key != FIRST.key


def test_sites_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RELU.owner = "elsewhere"  # type: ignore[misc]


def test_sites_are_a_sequence(sites: Sites) -> None:
    assert len(sites) == 4
    assert list(sites) == [STEM, FIRST, RELU, GATE]
    assert sites[0] is STEM and sites[-1] is GATE
    assert isinstance(sites[1:3], Sites)
    assert list(sites[1:3]) == [FIRST, RELU]
    assert sites[1:3].model_kind == "ResNet"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"activation": "relu"}, (STEM, FIRST, RELU)),
        ({"block": "layer1.*"}, (FIRST, RELU)),
        ({"block": "layer*", "role": "nonlinearity"}, (FIRST, RELU)),
        ({"block": ("layer1.0", "layer2.0")}, (FIRST, RELU, GATE)),
        ({"block": "re:layer[12]\\.0"}, (FIRST, RELU, GATE)),
        ({"site": "layer1.0.relu"}, (FIRST, RELU)),
        ({"site": "layer1.0.relu 2/2"}, (RELU,)),
        ({"site": str(STEM)}, (STEM,)),
        ({"module": "layer*.relu"}, (FIRST, RELU)),
        ({"owner": ""}, (STEM,)),
        ({"block": "layer1"}, (FIRST, RELU)),
        ({"block": ("layer1", "layer2.0")}, (FIRST, RELU, GATE)),
        ({"owner": "layer2"}, (GATE,)),
        ({"module": "layer1.0"}, (FIRST, RELU)),
        ({"feeds": "add"}, (STEM, RELU, GATE)),
        ({"fed_by": "norm"}, (FIRST,)),
        ({"modes": "train"}, (STEM, FIRST, RELU)),
        ({"inplace": False}, (GATE,)),
        ({"turn": 2}, (RELU,)),
        ({"channels": 64, "position": 1}, (FIRST,)),
        ({"activation": "gelu"}, ()),
    ],
)
def test_where_keeps_the_sites_with_these_facts(sites: Sites, facts: dict, expected: tuple[Site, ...]) -> None:
    assert tuple(sites.where(**facts)) == expected


def test_where_can_be_chained_and_still_knows_all_paths(sites: Sites) -> None:
    none = sites.where(role="gate").where(block="layer1.0")  # exists in the model, though not among the gates
    assert len(none) == 0
    assert list(sites.where(role="nonlinearity").where(position=2)) == [RELU]


@pytest.mark.parametrize("key", ["site", "owner", "module", "block"])
def test_a_path_that_fits_nothing_is_an_error_with_near_misses(sites: Sites, key: str) -> None:
    with pytest.raises(UnknownName) as caught:
        sites.where(**{key: "layer1.0.rel"})
    assert "layer1.0.rel" in str(caught.value)
    assert "layer1.0" in str(caught.value).split("hint", 1)[-1]


def test_a_path_names_a_block_or_else_all_that_are_in_it() -> None:
    inner = replace(RELU, block="stages.0.blocks.0")
    outer, stage, beside = (replace(RELU, block=name) for name in ("stages.0", "features#2", "stages.01"))
    sites = Sites((inner, outer, stage, beside))
    assert sites.where(block="stages.0").items == (outer,)
    assert sites.where(block="stages.0.blocks").items == (inner,)
    assert sites.where(block="stages").items == (inner, outer, beside)
    assert sites.where(block="features").items == (stage,)
    assert sites.where(role="nonlinearity").where(block="stages.0").items == (outer,)


def test_a_path_that_ends_within_a_name_names_nothing(sites: Sites) -> None:
    for pattern in ("laye", "layer1.", "re:layer1", ""):
        assert_raises(UnknownName, lambda value=pattern: sites.where(block=value), repr(pattern))


def test_a_call_is_named_in_full(sites: Sites) -> None:
    assert_raises(UnknownName, lambda: sites.where(site="layer1.0"), "'layer1.0'")


def test_each_pattern_of_a_tuple_must_fit_something(sites: Sites) -> None:
    with pytest.raises(UnknownName, match="layer9"):
        sites.where(block=("layer1.*", "layer9.*"))


def test_an_unknown_fact_is_an_error_with_the_nearest_known_one(sites: Sites) -> None:
    with pytest.raises(BadValue, match="activation") as caught:
        sites.where(activaton="relu")
    assert isinstance(caught.value, SurgeryError)


def test_by_block_groups_in_order_and_leaves_out_what_is_in_none(sites: Sites) -> None:
    groups = sites.by_block()
    assert list(groups) == ["layer1.0", "layer2.0"]
    assert list(groups["layer1.0"]) == [FIRST, RELU]
    assert list(groups["layer2.0"]) == [GATE]


def test_json_holds_every_fact(sites: Sites) -> None:
    read = json.loads(sites.to_json())
    assert len(read) == 4
    for site, entry in zip(sites, read, strict=True):
        assert set(entry) == {field.name for field in fields(Site)}
        back = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        assert Site(**back) == site


def test_the_table_shows_one_line_per_site_in_aligned_columns(sites: Sites) -> None:
    lines = str(sites).splitlines()
    assert lines[0].split()[:2] == ["site", "activation"]
    assert len(lines) == 1 + 4 + 1 + 1
    assert lines[3].startswith("layer1.0.relu 2/2")
    assert "relu_" in lines[3] and "2/2" in lines[3] and "layer1.0 (BasicBlock)" in lines[3]
    assert "locked" in lines[4] and "sigmoid " in lines[4]
    column = lines[0].index("activation")
    assert {line[column - 1] for line in lines[:5]} == {" "}
    assert lines[5] == "4 activation calls in ResNet"
    assert lines[6] == "not seen in train mode: a batch of one"


def test_a_notebook_shows_the_table(sites: Sites) -> None:
    page = sites._repr_html_()
    assert page.count("<tr>") == 1 + len(sites) and page.count("<table>") == 1
    assert "<td>layer1.0.relu 2/2</td><td>relu_</td><td>nonlinearity</td><td>layer1.0 (BasicBlock)</td>" in page
    notes = "4 activation calls in ResNet<br>not seen in train mode: a batch of one"
    assert page.endswith(f"<p>{notes}<br>as a drawing: surgery.draw(sites, &quot;network.html&quot;)</p></div>")


def test_no_sites_print_too() -> None:
    assert str(Sites((), model_kind="Linear")).endswith("0 activation calls in Linear")


WORDS = st.text(string.ascii_lowercase + string.digits + "_.", min_size=1, max_size=12)


@given(WORDS)
def test_every_path_matches_itself_and_the_star(path: str) -> None:
    assert matches(path, path)
    assert matches("*", path)
    assert matches("re:.*", path)
    assert matches(path + "*", path)


@given(WORDS, WORDS)
def test_without_wildcards_only_the_same_path_matches(pattern: str, path: str) -> None:
    assert matches(pattern, path) == (pattern == path)


@given(WORDS, WORDS)
def test_the_star_crosses_dots(start: str, end: str) -> None:
    assert matches(f"{start}*{end}", f"{start}.middle.{end}")
    assert not matches(f"{start}*", "-" + start)


@given(st.lists(WORDS, max_size=4), WORDS)
def test_a_tuple_of_patterns_matches_if_one_does(patterns: list[str], path: str) -> None:
    assert matches(tuple(patterns), path) == any(matches(pattern, path) for pattern in patterns)


@given(WORDS, st.lists(WORDS, max_size=4))
def test_a_tuple_of_values_matches_if_one_is_matched(pattern: str, values: list[str]) -> None:
    assert matches(pattern, tuple(values)) == any(matches(pattern, value) for value in values)


@given(st.one_of(st.integers(), st.booleans(), WORDS), st.one_of(st.integers(), st.none()))
def test_what_is_no_text_is_compared(pattern: int | bool | str, value: int | None) -> None:
    assert matches(pattern, value) == (pattern == value)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("re:layer[0-9]", "layer1", True),
        ("re:layer", "layer1", False),  # the whole text
        ("re:layer[0-9]", "layer1.0", False),
        ("layer1.0.relu 1/2", "layer1.0.relu 1/2", True),
        ("blocks.[01].act", "blocks.1.act", True),
        ("Layer*", "layer1", False),  # case counts on every system
        ("", "", True),
        ("*", None, False),
        ((), "a", False),
    ],
)
def test_patterns(pattern: object, value: object, expected: bool) -> None:
    assert matches(pattern, value) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["site", "activation"])
def test_a_broken_expression_is_named(sites: Sites, key: str) -> None:
    with pytest.raises(BadValue, match="re:\\("):
        sites.where(**{key: "re:("})


def test_a_list_of_patterns_is_a_tuple_of_patterns(sites: Sites) -> None:
    assert sites.where(activation=["relu", "gelu"]).items == sites.where(activation=("relu", "gelu")).items
    assert len(sites.where(activation=["relu", "gelu"])) > 0


def test_none_asks_for_what_has_no_such_fact(sites: Sites) -> None:
    outside = tuple(site for site in sites if site.block is None)
    assert sites.where(block=None).items == outside
    assert 0 < len(outside) < len(sites)
    blocks = {site.block for site in sites if site.block is not None}
    assert sites.where(block=(None, *blocks)).items == sites.items
    assert sites.where(block=None).where(block=None).items == outside


def test_a_pattern_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "re:(a?){12}(a|aa){9}b"  # harmless: some milliseconds on this text
    assert not matches(slow, "a" * 18)
    monkeypatch.setattr("surgery.look.site.PATIENCE", 1e-9)
    assert_raises(BadValue, lambda: matches(slow, "a" * 18), "takes too long", "aaaa", "simpler")


def test_a_pattern_that_is_too_long_is_refused() -> None:
    assert matches("re:" + "a" * 997, "a" * 997)
    assert_raises(BadValue, lambda: matches("re:" + "a" * 998, "a"), "too long", "1001 characters")
