"""The benchmark of what surgery changes: its table tells what the library measured."""

from __future__ import annotations

from benchmarks.prediction_difference import Row, table
from surgery.predictions.intervals import Estimate
from surgery.predictions.prediction_difference import PredictionDifference


def test_the_table_is_in_percent_with_95_percent_intervals() -> None:
    found = PredictionDifference(
        images=500, models=2, total_variation=Estimate(0.125, 0.01), disagreement=Estimate(0.1, 0.005),
        good_churn=Estimate(0.02, 0.001), bad_churn=Estimate(0.06, 0.001), accuracies=(0.9, 0.86),
    )  # fmt: skip
    assert table([Row.of("swap to gelu", found)])[2:] == [
        "| swap to gelu | 86.00 | 12.50 ± 1.96 | 10.00 ± 0.98 | 2.00 | 6.00 |"
    ]
