"""Studies of rounds: which pruner cuts in which round."""

from __future__ import annotations

from typing import Any

from benchmarks.studies.rounds import in_early_rounds


def test_the_first_pruner_cuts_in_the_early_rounds_and_the_other_one_after_them() -> None:
    cut: list[tuple[str, float]] = []

    def named(name: str) -> Any:
        return lambda round, share: cut.append((name, share))

    pruner = in_early_rounds(named("ap"), named("none"), 2)
    for share in (0.2, 0.3, 0.4):
        pruner(None, share)  # type: ignore[arg-type]
    assert cut == [("ap", 0.2), ("ap", 0.3), ("none", 0.4)]
