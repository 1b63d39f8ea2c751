"""Means, deviations and intervals, against values by hand."""

import math

import pytest

from benchmarks.bootstrap import interval
from benchmarks.studies.spread import difference, spread


def test_a_mean_has_a_deviation_where_there_are_several_seeds() -> None:
    assert spread([0.9, 0.92]) == "91.00 ± 1.41"
    assert spread([0.9]) == "90.00"
    assert spread([1.5, 2.5], scale=1, digits=1) == "2.0 ± 0.7"


def test_a_difference_is_paired_by_seed() -> None:
    """Means 0.02 apart, deviation of the pairs 0.01, three pairs: half of the interval is 4.303 x 0.01 / sqrt(3)."""
    found = difference({0: 0.91, 1: 0.82, 2: 0.73}, {2: 0.70, 1: 0.80, 0: 0.90, 7: 0.1})
    assert found is not None
    assert found.mean == pytest.approx(0.02)
    assert found.half == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)
    assert str(found) == "+2.00 (-0.48 to +4.48)"


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    single = difference({0: 0.5}, {0: 0.75, 1: 0.9})
    assert single is not None and str(single) == "-25.00 (one seed)"
    assert difference({0: 0.5}, {1: 0.5}) is None


def test_an_interval_of_the_median_holds_what_lies_in_the_middle() -> None:
    middle, low, high = interval([float(value) for value in range(101)])
    assert middle == 50.0
    assert 30.0 < low < 50.0 < high < 70.0
    assert interval([2.0] * 5) == (2.0, 2.0, 2.0)
    assert interval([1.0, 2.0, 6.0], max)[0] == 6.0
