"""The README of the recipes contains the current tables, and what was measured."""

from dataclasses import replace
from pathlib import Path

import pytest

import recipes
from recipes.format import table
from recipes.format.effects import Effect, Effects, all_effects, effects, percent
from recipes.format.table import catalogue

README = Path(recipes.__file__).parent / "README.md"


def test_the_readme_shows_every_recipe_as_it_is() -> None:
    assert len(rows(catalogue())) == len(recipes.names()) >= 50
    assert README.read_text(encoding="utf-8").endswith("\n" + catalogue() + "\n"), "surgery recipes ls --markdown"


def test_every_row_has_what_was_measured_and_says_where_nothing_was() -> None:
    for row in rows(catalogue()):
        name, cells = row.split("`")[1], row.strip("| ").split(" | ")
        if found := effects(name):
            assert cells[2] == found[0].network and cells[6:] == [percent(found[0].control), *told(found[0])]
        else:
            assert "| not measured |" in row


def test_harm_is_bold_and_a_second_network_has_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    effect = replace(all_effects().rows[0], recipe="mixer-swap-swish", difference=-0.04, error=0.01)
    other = replace(effect, network="Mixer-B/16", difference=-0.01, error=0.01)
    monkeypatch.setattr(table, "all_effects", lambda: Effects("", (effect, other)))
    lines = [line for line in catalogue("mixer-*").splitlines() if "Mixer-B" in line or "mixer-swap-swish" in line]
    assert "**-4.0 ± 1.0**" in lines[0] and lines[1].startswith("|  |  | Mixer-B/16 |") and "**" not in lines[1]


def told(effect: Effect) -> list[str]:
    return [f"**{effect.points}**" if effect.difference < -2 * effect.error else effect.points, effect.cost]


def test_a_family_names_its_models_once() -> None:
    section = catalogue("mixer-*")
    assert section.startswith("## MLP-Mixer\n\nChecked on timm: `mixer_s16_224`, `mixer_b16_224`.\n\n| recipe |")
    assert section.count("mixer_s16_224") == 1 and len(rows(section)) == 2


def rows(tables: str) -> list[str]:
    return [line for line in tables.splitlines() if line.startswith("| [")]
