"""Front: what no other function beats in both, and how it is printed and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from recipes.activation_search.front import Found, Front, _marked, front_of, times_of


def test_the_front_is_what_nothing_beats_in_both() -> None:
    ranked = [Found(f"f{k}", accuracy, None, 0.5, ms) for k, (accuracy, ms) in enumerate(
        [(0.9, 3.0), (0.8, 3.5), (0.7, 2.0), (0.6, 2.0), (0.5, 1.0)])]  # fmt: skip
    assert [found.best for found in _marked(ranked)] == [True, False, True, False, True]
    front = Front(tuple(_marked(ranked)))
    assert [found.function for found in front.best] == ["f4", "f2", "f0"]


def test_it_is_printed_and_written(tmp_path: Path) -> None:
    candidates = {"max(x, tanh(x))": ([0.9, 0.94], [0.8, 0.9]), "cube(x)": ([0.5, 0.5], [0.4, 0.4])}
    front = front_of(candidates, {"relu(x)": ([0.91, 0.91], [0.9, 0.9])}, {"candidates": 3, "trained": 2})
    assert [found.function for found in front.found] == ["max(x, tanh(x))", "relu(x)", "cube(x)"]
    first = front.found[0]
    assert (round(first.accuracy, 6), round(first.error or 0, 6), round(first.reported, 6)) == (0.92, 0.02, 0.85)
    assert first.best and first.formula == "max(x, tanh(x))" and all(found.ms > 0 for found in front.found)
    lines = str(front).splitlines()
    assert lines[0] == "3 candidates, 2 trained" and "92.00% ± 2.00%" in lines[2] and "reference" in lines[3]
    assert "<td>max(x, tanh(x))</td>" in front._repr_html_()
    front.write(tmp_path / "new")
    rows = list(csv.DictReader((tmp_path / "new" / "candidates.csv").read_text().splitlines()))
    assert [row["function"] for row in rows] == [found.function for found in front.found]
    assert json.loads((tmp_path / "new" / "front.json").read_text())["counts"]["trained"] == 2


def test_a_function_of_many_operators_takes_longer() -> None:
    times = times_of(["relu(x)", "sinh(cosh(asinh(exp(mul(x, sigmoid(scale(x)))))))"])
    assert list(times.values()) == sorted(times.values())
