"""The table of the recipes is the one in their README."""

from pathlib import Path

import recipes
from recipes.format.table import catalogue

README = Path(recipes.__file__).parent / "README.md"


def test_the_readme_shows_every_recipe_as_it_is() -> None:
    rows = catalogue().splitlines()
    assert len(rows) == 2 + len(recipes.names()) >= 50
    assert README.read_text(encoding="utf-8").endswith("\n".join(rows) + "\n"), "surgery recipes ls --markdown"


def test_what_was_measured_is_told_and_what_was_not() -> None:
    rows = {row.split("`")[1]: row for row in catalogue("resnet-*").splitlines()[2:]}
    assert "to 82.46 %" in rows["resnet-erase-fade"] and "not yet measured" in rows["resnet-erase-half"]
