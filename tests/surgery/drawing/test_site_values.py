"""Site values: numbers by name, checked, as fractions of the largest."""

from __future__ import annotations

import math
from typing import Any

import pytest

import pruning
import surgery
from surgery.drawing.site_values import SiteValues
from surgery.errors import BadValue, UnknownName
from tests.asserts import assert_raises
from tests.models import ResidualNet

KNOWN = ("relu", "layer1.0.relu 1/2", "layer1.0")


def test_numbers_become_fractions_of_the_largest() -> None:
    values = SiteValues.of({"relu": 2.0, "layer1.0": 8, "layer1.0.relu 1/2": -0.5}, "ms", KNOWN)
    assert [values.share(name) for name in (*KNOWN, "fc")] == [0.25, 0.0, 1.0, None]
    assert [values.text(name) for name in ("relu", "layer1.0.relu 1/2", "fc")] == ["2", "-0.5", ""]
    assert SiteValues.of({"relu": 0.0}, "ms", KNOWN).share("relu") == 0.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"layer1.0.relu": 1.0}, UnknownName, "layer1.0.relu 1/2"),
        ({"relu": math.nan}, BadValue, "not a finite number"),
        ({"relu": True}, BadValue, "not a finite number"),
        ([1.0, 2.0], BadValue, "site -> number"),
    ],
)
def test_values_that_mean_nothing(given: Any, error: type[Exception], message: str) -> None:
    assert_raises(error, lambda: SiteValues.of(given, "ms", KNOWN), message)


def test_what_was_measured_brings_its_numbers() -> None:
    model = ResidualNet()
    sites = surgery.find_sites(model, ResidualNet.example)
    rates = pruning.dead_neurons(model, [ResidualNet.example])
    values = SiteValues.of(rates, "value", map(str, sites))
    assert values.name == "fraction of dynamically dead channels"
    assert values.numbers == {row.site: row.dynamic / row.channels for row in rates.rows} and len(values.numbers) == 5
    assert SiteValues.of({sites[0]: 1.0}, "value", map(str, sites)).numbers == {"relu": 1.0}
