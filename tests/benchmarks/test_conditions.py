"""The conditions below a table of figures."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.conditions import command_line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("--images 8 --results somewhere", " --images 8"),
        ("--test-images 3 --fused --shares 0 0.5", " --test-images 3 --fused --shares 0.0 0.5"),
        ("--images 4", ""),
    ],
)
def test_the_command_as_it_was_given_without_folders(given: str, expected: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.0, 1.0))
    parser.add_argument("--results", default="results")
    assert command_line(parser, parser.parse_args(given.split()), "speed") == f"python -m benchmarks.speed{expected}"
