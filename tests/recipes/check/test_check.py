"""Checks of recipes: what each rule would pick, whether that is as expected, and why it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import surgery
from recipes.check.check import Check, check, sites_of
from recipes.format.parse import parse
from recipes.models import build as models
from surgery.errors import UnknownName
from surgery.look.site import Sites
from tests.asserts import assert_raises

MODEL = "cifar/resnet20"


@pytest.fixture(scope="module")
def sites() -> Sites:
    return sites_of(MODEL)


def checked(sites: Sites, *rules: dict[str, Any], model: str = MODEL, **more: Any) -> Check:
    return check(parse({"format": 1, "rule": list(rules), **more}, "mine"), model, sites)


def test_a_model_is_looked_at_without_weights(sites: Sites) -> None:
    assert {site.device for site in sites} == {"meta"}
    assert [str(site) for site in sites] == [str(site) for site in surgery.find_sites(models.build(MODEL))]


def test_what_holds_is_told(sites: Sites) -> None:
    last = {"use": "erase_relu", "expect": {MODEL: 9, "timm/resnet50": 16}}
    done = checked(sites, last, {"use": "swap", "to": "prelu", "remaining": True}, models=[MODEL])
    assert done.holds and [len(pick.sites) for pick in done.picked] == [9, 10]
    assert [pick.expect for pick in done.picked] == [9, None]
    assert str(done).splitlines() == [
        "mine on cifar/resnet20 (named in the recipe): 19 activation calls",
        "  rule 1: erase_relu",
        "    picks 9 sites, as expected: 9 x relu in BasicBlock",
        "    layer1.0.act2, layer1.1.act2, layer1.2.act2, layer2.0.act2, ...",
        '  rule 2: swap: to = "prelu", remaining = true',
        "    picks 10 sites: 9 x relu in BasicBlock, 1 x relu in CifarResNet",
        "    act1, layer1.0.act1, layer1.1.act1, layer1.2.act1, ...",
        "it can be applied",
    ]
    facts = done.facts()
    assert facts["ok"] and facts["named"] and [len(fact["picks"]) for fact in facts["rules"]] == [9, 10]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([{"use": "erase_relu", "expect": {MODEL: 8}}], "picks 9 sites, not the 8 that rule 1 expects"),
        ([{"use": "erase_relu", "expect": 0}], "picks 9 sites, not the 0 that rule 1 expects"),
        ([{"use": "swap", "to": "silu", "activation": "gelu"}], "Rule 1 picks no site"),
        ([{"use": "swap", "to": "silu", "block": "lyer*"}], "no site has a block like 'lyer*'"),
        ([{"use": "erase_relu"}, {"use": "swap", "to": "silu"}], "Two rules pick"),
        ([{"use": "swap", "to": "silu"}, {"use": "erase_relu", "remaining": True}], "earlier rules picked all"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_hold_is_told(sites: Sites, rules: list[dict[str, Any]], says: str) -> None:
    done = checked(sites, *rules)
    assert not done.holds and says in str(done)
    assert str(done).splitlines()[-1] == "it cannot be applied as it is" and not done.facts()["ok"]


@pytest.mark.parametrize(
    "rule",
    [
        {"use": "erase_relu", "expect": 9},
        {"use": "swap", "to": "silu", "activation": "gelu", "optional": True},
        {"use": "swap", "to": "silu", "activation": "gelu", "expect": 0},
        {"use": "rectify_scores"},
    ],
    ids=str,
)
def test_a_check_agrees_with_a_plan(sites: Sites, rule: dict[str, Any]) -> None:
    done = checked(sites, rule)
    assert done.holds
    assert len(done.picked[0].sites) == len(surgery.make_plan(sites, done.recipe).edits)


def test_a_recipe_without_rules_leaves_the_model_as_it_is(sites: Sites) -> None:
    done = checked(sites, pruning={})
    assert done.holds and "no rule: the model stays as it is" in str(done)
    assert "not among those the recipe names" in str(done)


def test_a_builder_that_needs_numbers_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    build = models.build

    def picky(name: str, **kwargs: Any) -> torch.nn.Module:
        if torch.get_default_device().type == "meta":
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return build(name, **kwargs)

    monkeypatch.setattr(models, "build", picky)
    assert {site.device for site in sites_of(MODEL)} == {"cpu"}


def test_an_unknown_model_is_told_once(sites: Sites) -> None:
    assert_raises(UnknownName, lambda: check(parse({"format": 1, "pruning": {}}), "cifar/resnet21"), "cifar/resnet20")
