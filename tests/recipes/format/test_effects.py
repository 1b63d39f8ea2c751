"""Effects: what was measured is read from the package, told in words, and cannot contradict itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import recipes
from recipes.format.effects import Effect, Effects, all_effects, effects, effects_from, percent
from recipes.format.library import tables_of
from surgery.errors import UnknownName
from tests.asserts import assert_raises

EFFECT = Effect(
    recipe="resnet-erase-last", network="ResNet-20", before=0.917, after_surgery=0.402, accuracy=0.871, control=0.915,
    difference=-0.044, error=0.005, seconds=30.0, parameters_before=1000, parameters=1000, macs_before=500, macs=450,
    relus_before=200, relus=100, density=1.0, ms=1.2, time=0.95, merged_time=0.9,
)  # fmt: skip


def test_an_effect_tells_accuracy_and_cost() -> None:
    assert str(EFFECT) == (
        "ResNet-20: 91.7 %, 40.2 after surgery, 87.1 trained, 91.5 untouched (-4.4 ± 0.5 points); 0.95x the time,"
        " 0.90x merged, 50% fewer activations, 10% fewer multiply-adds"
    )
    assert EFFECT.best_time == 0.9 and EFFECT.relu_ratio == 0.5


def test_what_did_not_change_is_not_told() -> None:
    pruned = replace(EFFECT, after_surgery=None, relus=200, macs=500, density=0.512, time=1.0, merged_time=None)
    assert pruned.cost == "1.00x the time, 51% of the weights" and "after surgery" not in str(pruned)
    assert pruned.best_time == 1.0 and pruned.relu_ratio == 1.0
    grown = replace(pruned, density=1.0, parameters=1100)
    assert grown.cost == "1.00x the time, 10% more parameters"
    assert replace(grown, merged_time=0.998).cost == grown.cost, "merging changes nothing there"


@pytest.mark.parametrize(("difference", "harms"), [(-0.044, True), (-0.009, False), (0.044, False)])
def test_harm_is_what_noise_does_not_explain(difference: float, harms: bool) -> None:
    assert replace(EFFECT, difference=difference).harms == harms


def test_a_network_without_activations_has_as_many_as_before() -> None:
    assert replace(EFFECT, relus_before=0, relus=0).relu_ratio == 1.0


def test_effects_are_written_and_read() -> None:
    whole = Effects("One seed.", (EFFECT, replace(EFFECT, network="ResNet-56", after_surgery=None)))
    assert effects_from(whole.to_json()) == whole
    assert len(whole.of("resnet-erase-last")) == 2 and whole.of("resnet-erase-half") == ()
    assert percent(None) == "-" and percent(0.1234) == "12.3"


def test_what_the_package_carries_is_about_its_recipes_and_agrees_with_itself() -> None:
    found = all_effects()
    assert "seed" in found.conditions and {row.recipe for row in found.rows} <= set(recipes.names())
    assert len({(row.recipe, row.network) for row in found.rows}) == len(found.rows) > 0
    for row in found.rows:
        assert math.isclose(row.difference, row.accuracy - row.control, abs_tol=1e-5), row
        assert all(0 <= value <= 1 for value in (row.before, row.accuracy, row.control)), row
        assert 0 <= row.error < 0.05 and row.time > 0.2 and row.ms > 0 and row.seconds > 0, row
        tables = tables_of(row.recipe)
        assert (row.density is not None and row.density < 1) == ("pruning" in tables), row
        assert (row.after_surgery is None) == ("rule" not in tables), row


def test_the_effects_of_a_recipe_are_asked_for_by_its_name() -> None:
    first = all_effects().rows[0]
    assert recipes.effects(first.recipe)[0] == first
    assert_raises(UnknownName, lambda: effects("resnet-erase-lst"), "resnet-erase-last")
