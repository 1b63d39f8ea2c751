"""The README of the recipes contains the current tables."""

from pathlib import Path

import pytest

import recipes
from recipes.format.table import catalogue

README = Path(recipes.__file__).parent / "README.md"


@pytest.mark.slow
def test_the_readme_shows_every_recipe_as_it_is() -> None:
    assert len(rows(catalogue())) == len(recipes.names()) >= 50
    assert README.read_text(encoding="utf-8").endswith("\n" + catalogue() + "\n"), "surgery recipes ls --markdown"


def test_what_was_measured_is_shown_and_what_was_not() -> None:
    measured = {row.split("`")[1]: row.split(" | ")[-1] for row in rows(catalogue("resnet-*"))}
    assert "to 82.46 %" in measured["resnet-erase-fade"] and measured["resnet-erase-half"] == "not yet |"


def test_a_family_names_its_models_once() -> None:
    section = catalogue("mixer-*")
    assert section.startswith("## MLP-Mixer\n\nChecked on timm: `mixer_s16_224`, `mixer_b16_224`.\n\n| recipe |")
    assert section.count("mixer_s16_224") == 1 and len(rows(section)) == 2


def rows(tables: str) -> list[str]:
    return [line for line in tables.splitlines() if line.startswith("| [")]
