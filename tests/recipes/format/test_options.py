"""Options: a value out of range is reported with the declared bound."""

from __future__ import annotations

import pytest

from recipes.format.options import Option


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        (Option("images", int, least=1, most=2**20), 2**20 + 1, "is at most 1048576, not 1048577"),
        (Option("images", int, least=2**20), 3, "is at least 1048576, not 3"),
        (Option("share", float, most=1.0), 1.5, "is at most 1, not 1.5"),
        (Option("share", float, least=0.25), 0, "is at least 0.25, not 0.0"),
        (Option("images", int, least=1, most=2**20), 2**20, ""),
    ],
)
def test_a_bound_is_told_whole(option: Option, value: float, says: str) -> None:
    assert option.problem(value) == says
