"""Plans: which sites rules edit, and the reason for every other site."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import surgery
from surgery.look.site import Sites
from surgery.plan.plan import as_rules
from surgery.plan.rules import Recipe, Rule
from tests import models
from tests.asserts import assert_raises, assert_untouched

LAST_TWO = ["layer1.0.relu 2/2", "layer1.1.relu 2/2"]


def sites_of(kind: type[models.Stated]) -> Sites:
    return surgery.find_sites(kind(), kind.example)


def edited(plan: surgery.Plan) -> list[str]:
    return [str(edit.site) for edit in plan.edits]


# Conflicts


def test_two_rules_for_one_site_are_refused_with_both() -> None:
    rules = [surgery.erase_relu(), surgery.swap("gelu", block="layer1.1")]
    assert_raises(
        surgery.RuleConflict, lambda: surgery.make_plan(sites_of(models.ResidualNet), rules),
        "layer1.1.relu 2/2", "rule 1: erase_relu", "rule 2: swap('gelu'", "remaining=True",
    )  # fmt: skip


def test_the_same_rule_twice_is_a_conflict_too() -> None:
    rules = [surgery.erase_relu(), surgery.erase_relu()]
    assert_raises(surgery.RuleConflict, lambda: surgery.make_plan(sites_of(models.ResidualNet), rules))


def test_remaining_takes_what_no_earlier_rule_took() -> None:
    rules = [surgery.erase_relu(), surgery.swap("gelu", remaining=True, expect=3)]
    plan = surgery.make_plan(sites_of(models.ResidualNet), rules)
    assert [edit.make for edit in plan.edits] == ["gelu", "gelu", "identity", "gelu", "identity"]
    assert [edit.because for edit in plan.edits] == [2, 2, 1, 2, 1]
    assert not plan.kept


def test_a_rule_with_nothing_remaining_picks_nothing() -> None:
    rules = [surgery.swap("gelu"), surgery.erase_relu(remaining=True)]
    assert_raises(surgery.NothingPicked, lambda: surgery.make_plan(sites_of(models.ResidualNet), rules), "Rule 2")


def test_positions_are_counted_on_the_sites_as_they_are() -> None:
    rules = [surgery.erase_relu("first"), surgery.erase_relu("last")]
    assert edited(surgery.make_plan(sites_of(models.BottleneckNet), rules)) == [
        "body.0.act1", "body.0.act3", "body.1.act1", "body.1.act3",
    ]  # fmt: skip
    plan = surgery.make_plan(sites_of(models.BottleneckNet), [*rules, surgery.swap("gelu", position=2)])
    assert [edit.because for edit in plan.edits] == [1, 3, 2, 1, 3, 2]


# Counts


def test_an_expected_number_is_checked() -> None:
    sites = sites_of(models.ResidualNet)
    assert edited(surgery.make_plan(sites, surgery.erase_relu(expect=2))) == LAST_TWO
    assert_raises(
        surgery.CountChanged, lambda: surgery.make_plan(sites, surgery.erase_relu(expect=3)),
        "expects 3", "picks 2", "4 x relu in BasicBlock", "expect=2",
    )  # fmt: skip
    assert_raises(surgery.CountChanged, lambda: surgery.make_plan(sites, surgery.erase_relu(expect=0)), "picks 2")


def test_nothing_picked_is_an_error_that_says_why() -> None:
    assert_raises(
        surgery.NothingPicked, lambda: surgery.make_plan(sites_of(models.MobileNet), surgery.erase_relu()),
        "2 (module already has a linear output)", "2 x relu6 in Sequential", "optional=True",
    )  # fmt: skip
    assert_raises(
        surgery.NothingPicked,
        lambda: surgery.make_plan(sites_of(models.MobileNet), surgery.swap("gelu", activation="relu")),
        "hint", "relu6",
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"optional": True}, {"expect": 0}], ids=str)
def test_nothing_picked_may_be_right(options: dict[str, int]) -> None:
    plan = surgery.make_plan(sites_of(models.MobileNet), surgery.erase_relu(**options))  # type: ignore[arg-type]
    assert not plan.edits
    assert len(plan.kept) == len(plan.sites)
    model = models.MobileNet()
    with assert_untouched(model):
        report = surgery.apply_plan(model, plan)
    assert list(report.after) == list(report.before)


def test_an_optional_rule_stands_among_others() -> None:
    rules = [surgery.erase_relu(vgg_odd="keep", location=7, optional=True), surgery.swap("gelu", position=1)]
    assert len(surgery.make_plan(sites_of(models.PlainNet), rules).edits) == 2


# What it says


def test_every_site_is_edited_or_kept_with_a_reason() -> None:
    plan = surgery.make_plan(sites_of(models.ResidualNet), surgery.erase_relu(share=0.5, order="front"))
    assert edited(plan) == LAST_TWO[:1]
    assert [(str(site), reason) for site, reason in plan.kept] == [
        ("relu", "in the stem"),
        ("layer1.0.relu 1/2", "not the last of its module"),
        ("layer1.1.relu 1/2", "not the last of its module"),
        ("layer1.1.relu 2/2", "module not in the selected 50 %"),
    ]


def test_a_plan_prints_its_edits_and_counts_its_reasons() -> None:
    rules = [surgery.erase_relu(), surgery.swap("gelu", site="relu", fade=True)]
    assert str(surgery.make_plan(sites_of(models.ResidualNet), rules)).splitlines() == [
        "3 of 5 activation calls of ResidualNet will be edited",
        "  site               block     before      after",
        "  relu               -         relu    ->  gelu (fading)",
        "  layer1.0.relu 2/2  layer1.0  relu    ->  identity",
        "  layer1.1.relu 2/2  layer1.1  relu    ->  identity",
        "  kept: 2 (not the last of its module)",
    ]


def test_the_model_is_not_needed_to_plan() -> None:
    model = models.ResidualNet()
    sites = surgery.find_sites(model, model.example)
    with assert_untouched(model):
        surgery.make_plan(sites, surgery.erase_relu())


@given(
    location=st.sampled_from(["first", "middle", "last", 1, 2, 3, -1, -2]),
    share=st.floats(0.01, 1),
    order=st.sampled_from(["spread", "front", "back"]),
    stem=st.booleans(),
    keep_final=st.booleans(),
    kind=st.sampled_from([models.ResidualNet, models.BottleneckNet, models.InceptionNet, models.PlainNet]),
)
@settings(max_examples=60)
def test_edits_and_kept_are_all_sites(
    location: str | int, share: float, order: str, stem: bool, keep_final: bool, kind: type[models.Stated]
) -> None:
    rule = surgery.erase_relu(location, share, order, stem=stem, keep_final=keep_final, optional=True)
    sites = _known(kind)
    plan = surgery.make_plan(sites, rule)
    assert {edit.site for edit in plan.edits} | {site for site, _ in plan.kept} == set(sites)
    assert len(plan.edits) + len(plan.kept) == len(sites)
    assert [edit.site for edit in plan.edits] == [site for site in sites if site in {e.site for e in plan.edits}]
    assert all(reason for _, reason in plan.kept)


_found: dict[type[models.Stated], Sites] = {}


def _known(kind: type[models.Stated]) -> Sites:
    return _found.setdefault(kind, _found.get(kind) or sites_of(kind))


# What rules are


def test_one_rule_several_or_a_recipe() -> None:
    rule = surgery.erase_relu()
    assert as_rules(rule) == as_rules([rule]) == as_rules((rule,)) == as_rules(Recipe("mine", (rule,))) == (rule,)


@pytest.mark.parametrize(
    "rules",
    ["erase_relu", [], (), None, 3, [None], ["relu"], surgery.erase_relu],
    ids=["name", "empty list", "empty tuple", "None", "number", "list of None", "list of names", "function"],
)
def test_what_is_no_rule_is_refused(rules: object) -> None:
    model = models.ResidualNet()
    with assert_untouched(model):
        assert_raises(surgery.BadValue, lambda: surgery.transform(model, rules))  # type: ignore[arg-type]


# Another model


class Wider(models.Stated):
    """The same paths as `ResidualNet`, another ReLU in front."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = models.ResidualNet()
        self.conv1, self.bn1, self.relu = self.inner.conv1, self.inner.bn1, nn.ReLU(inplace=True)
        self.layer1 = self.inner.layer1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(self.relu(self.bn1(self.conv1(x))).relu())


@pytest.mark.parametrize(
    "rule", [surgery.erase_relu(), surgery.swap("gelu", site="relu"), surgery.swap("gelu")], ids=str
)
@pytest.mark.parametrize("kind", [models.TwiceUsed, models.BottleneckNet, Wider, models.PlainNet])
def test_a_plan_for_another_model_is_refused(kind: type[models.Stated], rule: Rule) -> None:
    plan = surgery.make_plan(sites_of(models.ResidualNet), rule)
    model = kind()
    with assert_untouched(model):
        assert_raises(surgery.SurgeryError, lambda: surgery.apply_plan(model, plan))


def test_a_plan_whose_owners_are_not_there_is_refused() -> None:
    plan = surgery.make_plan(sites_of(models.PreActNet), surgery.erase_relu())
    model = models.ResidualNet()
    with assert_untouched(model):
        assert_raises(surgery.SurgeryError, lambda: surgery.apply_plan(model, plan), "body.0")


def test_a_plan_is_for_the_model_as_it_was() -> None:
    model = models.ResidualNet()
    plan = surgery.make_plan(surgery.find_sites(model, model.example), surgery.erase_relu())
    surgery.apply_plan(model, plan)
    with assert_untouched(model):
        assert_raises(surgery.SurgeryError, lambda: surgery.apply_plan(model, plan))


def test_a_plan_fits_another_object_of_the_same_model() -> None:
    plan = surgery.make_plan(sites_of(models.ResidualNet), surgery.erase_relu())
    for _ in range(2):
        report = surgery.apply_plan(models.ResidualNet(), plan)
        assert len(report.after) == 3


# What cannot be edited is left alone


class HalfLocked(nn.Module):
    """Three ReLUs, the second inside a lambda: no call of its method."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc(x))
        x = (lambda y: functional.relu(y - 1.0))(x)
        return functional.relu(self.fc(x))


def test_a_locked_call_is_left_alone_by_a_plan_that_skips() -> None:
    sites = surgery.find_sites(HalfLocked(), torch.rand(2, 4))
    plan = surgery.make_plan(sites, surgery.swap("silu", expect=3), skip_uneditable=True)
    assert [edit.site for edit in plan.edits] == [sites[0], sites[2]]
    assert plan.kept == ((sites[1], f"cannot be edited: {sites[1]}: {sites[1].locked}"),)
    assert f"kept: 1 (cannot be edited: {sites[1]}" in str(plan)
    assert len(surgery.make_plan(sites, surgery.swap("silu")).edits) == 3


def test_a_rule_of_which_nothing_can_be_edited_picks_nothing() -> None:
    sites = surgery.find_sites(HalfLocked(), torch.rand(2, 4))
    rule = surgery.swap("silu", site=str(sites[1]))
    assert_raises(
        surgery.NothingPicked,
        functools.partial(surgery.make_plan, sites, rule, skip_uneditable=True),
        "None of the sites that rule 1 picks can be edited", str(sites[1].locked),
    )  # fmt: skip
    plan = surgery.make_plan(sites, dataclasses.replace(rule, optional=True), skip_uneditable=True)
    assert plan.edits == () and len(plan.kept) == 3


def test_code_without_source_is_one_sentence() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("class Net(nn.Module):\n def forward(self, x):\n  return self.act(self.act(x) - 1)\n", names)
    model = names["Net"]()
    model.act = nn.ReLU()
    sites = surgery.find_sites(model, torch.rand(2, 3))
    assert "\n" not in str(sites[1].locked)
    for skip in (False, True):
        with pytest.raises(surgery.SurgeryError) as caught:
            surgery.transform(model, surgery.swap("silu", site=str(sites[1])), torch.rand(2, 3), skip_uneditable=skip)
        sentence = str(caught.value).splitlines()[0]
        assert "has no source to read" in sentence and "define the class in a file" in sentence
        assert sentence.endswith("where it is.") and sentence.count("cannot be edited") <= 1


def test_rules_and_edits_read_as_what_was_written() -> None:
    rule = surgery.swap("gelu", site="relu", fade=True)
    assert repr([rule]) == "[swap('gelu', site='relu', fade=True)]"
    assert eval(repr(rule), {"swap": surgery.swap}) == rule
    plan = surgery.make_plan(sites_of(models.ResidualNet), rule)
    assert repr(plan.edits) == "(<Edit relu: relu -> gelu (fading)>,)"
