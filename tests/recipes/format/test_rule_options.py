"""Rule options: rules are built by name, and every problem is told, each with its option."""

from __future__ import annotations

from typing import Any

import pytest

import surgery
from recipes.format.rule_options import (
    FACTS,
    MAYBE_FACTS,
    RULES,
    TEXT_FACTS,
    build_rule,
    defaults,
    named_options,
    required_options,
    rule_problems,
    takes_facts,
)
from surgery.errors import BadValue, SurgeryError, UnknownName
from tests.asserts import assert_raises


def test_a_rule_is_that_of_its_function() -> None:
    assert build_rule("erase_relu", {"share": 0.5}) == surgery.erase_relu(share=0.5)
    assert build_rule("swap", {"to": "silu", "block": "layer1.*"}) == surgery.swap("silu", block="layer1.*")


@pytest.mark.parametrize(
    ("use", "options", "error", "words"),
    [
        ("erase_rellu", {}, UnknownName, ("unknown rule 'erase_rellu'", "erase_relu, swap")),
        ("erase_relu", {"shar": 0.5}, UnknownName, ("no option 'shar'", "share")),
        ("swap", {}, BadValue, ("needs to=VALUE",)),
        ("erase_relu", {"share": 2.0}, SurgeryError, ("share",)),
    ],
)
def test_what_is_wrong_is_named(
    use: str, options: dict[str, Any], error: type[SurgeryError], words: tuple[str, ...]
) -> None:
    assert_raises(error, lambda: build_rule(use, options), *words)


@pytest.mark.parametrize("use", RULES)
def test_options_are_those_of_the_functions(use: str) -> None:
    assert set(required_options(use)) <= set(named_options(use))
    assert set(defaults(use)) == set(named_options(use)) - set(required_options(use))


def test_facts_are_those_of_a_site_and_its_name() -> None:
    assert {"site", "owner", "block", "position"} <= FACTS
    assert TEXT_FACTS < FACTS and MAYBE_FACTS < FACTS
    assert "position" in MAYBE_FACTS - TEXT_FACTS and "owner" in TEXT_FACTS - MAYBE_FACTS
    assert takes_facts("swap") and not takes_facts("erase_relu")


def test_all_problems_are_told_with_their_options() -> None:
    assert list(rule_problems("swap", {"to": "silu", "block": "layer1.*"})) == []
    ((key, said),) = rule_problems("swap", {})
    assert key == "to" and "is missing" in said and "silu" in said
    found = dict(rule_problems("erase_relu", {"share": 2.0, "order": "sideways", "stem": True}))
    assert set(found) == {"share", "order"}
    assert "n_such" in dict(rule_problems("swap", {"to": "silu", "n_such": 1}))
