"""Search: from a space to a front, gone on with where it ended, and refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import recipes
import surgery
from recipes.format.settings import Finetune
from surgery.errors import BadFile, SurgeryError
from tests.asserts import assert_raises
from tests.recipes.activation_search.oracle import SMALL

pytest.importorskip("sklearn")
SHORT = Finetune(epochs=1, batch_size=128, lr=0.1, crop=0, hflip=0.0)


def searched(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    front = recipes.search(SMALL, output=folder, finetune=SHORT, train_num_samples=400, say=said.append, **options)
    return front, said


@pytest.mark.slow
def test_a_search_is_gone_on_with(tmp_path: Path) -> None:
    first, said = searched(tmp_path, trials=2)
    assert said[0].startswith(
        "small: 48 expressions, 2 candidates by exhaustive, 1 seed of 1 epochs each\nmlp on digits: 400"
    )
    assert "candidate 2/2" in said[-1]
    assert_raises(BadFile, lambda: searched(tmp_path, trials=4), "already", "--resume")
    second, said = searched(tmp_path, trials=4, resume=True)
    assert second.counts["candidates"] == 4 and {found.function for found in first.found} <= {
        found.function for found in second.found
    }
    assert {path.name for path in tmp_path.iterdir()} >= {"candidates.csv", "front.json", "study.db"}
    references = [found.function for found in second.found if found.reference]
    assert sorted(references) == ["mul(x, sigmoid(x))", "relu(x)"]
    surgery.swap(second.found[0].function)  # names a function


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    front, said = searched(tmp_path / "new", dry_run=True)
    assert front.found == () and "26 candidates by exhaustive" in said[0] and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "annealing"}, "exhaustive, evolution, tpe"), ({"stopping": "late"}, "Unknown stopping"),
        ({"trials": 0}, "`trials` must be 1 or more"), ({"workers": 0}, "`workers`"), ({"model": "timm/none"}, "none"),
        ({"storage": "nonsense"}, "cannot be used"), ({"data": "nothing"}, "unknown image set"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert_raises(SurgeryError, lambda: searched(tmp_path / "new", **options), said)
    assert not (tmp_path / "new").exists()
