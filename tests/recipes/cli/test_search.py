"""Searching on the command line: what it prints, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from recipes import cli
from recipes.activation_search import engines, plan, small_network
from recipes.cli import search
from tests.recipes.cli.commands import refused

pytest.importorskip("sklearn")


def test_the_words_are_those_of_the_library() -> None:
    assert (search.ENGINES, search.STOPPINGS, search.MLP) == (engines.ENGINES, plan.STOPPINGS, small_network.MLP)


def test_it_prints_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "one-core", "--engine", "tpe", "--trials", "2", "--epochs", "1", "--train-num-samples", "256"]
    assert cli.main([*words, "--output", str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"]["candidates"] == 2
    assert "2 candidates by tpe, 1 seed of 1 epochs each" in err and "candidate 2/2" in err


def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["search", "two-core", "--engine", "evolution", "--dry-run", "--output", str(tmp_path / "out")]) == 0
    )
    assert "117,187,500 expressions, 100 candidates by evolution" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_is_a_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "mine.toml"
    space.write_text('format = 1\nunary = ["x", "tanh"]\nbinary = ["max", "mul"]\n')
    words = [
        "--epochs",
        "1",
        "--train-num-samples",
        "256",
        "--fixed-betas",
        "--json",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.main(["search", str(space), *words]) == 0
    assert "mine: 8 expressions, 6 candidates by exhaustive" in capsys.readouterr().err
    with (tmp_path / "out" / "candidates.csv").open(newline="") as stream:
        found = {row["function"] for row in csv.DictReader(stream)}
    assert {"x", "tanh(x)", "max(tanh(x), x)"} <= found
    space.write_text('format = 1\nunary = ["x", "tahn"]\n')
    assert "mine.toml: No unary function is named 'tahn'" in refused(capsys, "search", str(space))


def test_a_space_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No space is named three-core" in refused(capsys, "search", "three-core")
