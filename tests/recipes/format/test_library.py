"""The library of recipes: names, descriptions, and files that are not recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from recipes.format.effects import all_effects
from recipes.format.library import describe, load, measured_lines, names, tables_of, text_of
from recipes.format.parse import MOST_IN_A_FILE, parse, to_toml
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune, Pruning
from surgery.errors import BadFile, UnknownName
from tests.asserts import assert_raises


def test_names_fit_a_pattern() -> None:
    assert names() == sorted(names()) and len(names()) >= 40
    assert "resnet-erase-last" in names("resnet-erase-*") and "vgg-erase-pairs" not in names("resnet-*")
    assert names("resnet-erase-last") == ["resnet-erase-last"] and names("nothing*") == []


def test_the_tables_of_a_recipe_are_read_without_checks() -> None:
    recipe, tables = load("resnet-erase-ap"), tables_of("resnet-erase-ap")
    assert tuple(tables["models"]) == recipe.models and recipe.pruning is not None
    assert tables["pruning"]["rounds"] == recipe.pruning.rounds and len(tables["rule"]) == len(recipe.rules)
    assert_raises(UnknownName, lambda: tables_of("resnet-erase-lst"), "resnet-erase-last")


def test_what_was_measured_stands_below_the_text_as_comments() -> None:
    name = all_effects().rows[0].recipe
    lines = measured_lines(name)
    assert all(len(line) <= 120 and line.startswith(("# ", "")) for line in lines) and "Measured on" in lines[1]
    assert " ".join(line.removeprefix("# ") for line in lines).split()[-3:] == all_effects().conditions.split()[-3:]
    assert parse(f"{text_of(name)}\n" + "\n".join(lines), name).rules == load(name).rules
    assert measured_lines("mine.toml") == []


def test_a_name_and_its_file_are_one_recipe(tmp_path: Path) -> None:
    file = tmp_path / "resnet-erase-ap.toml"
    file.write_text(text_of("resnet-erase-ap"), encoding="utf-8")
    assert load(file) == load(str(file)) == load("resnet-erase-ap")
    assert load("resnet-erase-ap").name == "resnet-erase-ap"


def test_an_unknown_name_is_told_the_nearest() -> None:
    assert_raises(UnknownName, lambda: load("resnet-erase-lst"), "'resnet-erase-lst'", "resnet-erase-last")
    assert_raises(UnknownName, lambda: load("../files/resnet-ap"), "unknown recipe")
    assert_raises(UnknownName, lambda: text_of("resnet-erase"), "surgery recipes ls")


def test_a_file_is_read_within_limits(tmp_path: Path) -> None:
    large, other = tmp_path / "large.toml", tmp_path / "other.toml"
    large.write_bytes(b"#" * (MOST_IN_A_FILE + 1))
    assert_raises(BadFile, lambda: load(large), "too large for a recipe")
    other.write_bytes(b"format = 1\nabout = '\xff'")
    assert_raises(BadFile, lambda: load(other), "not UTF-8 text", "byte 20")
    other.write_text("format = 1\n[pruing]", encoding="utf-8")
    assert_raises(BadFile, lambda: load(other), "other has 2 problems", "near: pruning")
    assert_raises(BadFile, lambda: load(tmp_path / "none.toml"), "cannot be read", "No such file")
    assert_raises(BadFile, lambda: load(tmp_path), "cannot be read", "directory")


def test_a_recipe_is_described() -> None:
    recipe = Recipe(
        "mine", (surgery.erase_relu(share=0.5), surgery.swap("pwlu", remaining=True)), "Half and half.", "a paper",
        ("timm/resnet50",), (), Pruning(rounds=3), Finetune(lr=0.1),
    )  # fmt: skip
    assert describe(recipe).splitlines() == [
        "mine",
        "  about     Half and half.",
        "  source    a paper",
        "  models    timm/resnet50",
        "  rule 1    erase_relu: share = 0.5",
        '  rule 2    swap: to = "pwlu", remaining = true',
        "  pruning   criterion='global_magnitude', share=0.2, rounds=3, rewind='init', epochs=None, ap_share=0.0, "
        "among='negative', score='still', order='beside'",
        "  finetune  lr=0.1",
    ]


def test_a_short_recipe_is_described(tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text(to_toml(Recipe("short", (), finetune=Finetune())), encoding="utf-8")
    assert describe(file).splitlines() == ["short", "  finetune  as usual"]


@pytest.mark.parametrize("name", ["resnet-erase-last", "resnet-ap"])
def test_a_ready_made_recipe_is_described(name: str) -> None:
    assert describe(name).startswith(f"{name}\n  about ") and "timm/resnet50" in describe(name)
