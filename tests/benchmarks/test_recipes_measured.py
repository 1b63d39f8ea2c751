"""The measurement of all recipes: whom it covers, what is compared with what, and that its rows are what is told."""

from __future__ import annotations

import math
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

import recipes
from benchmarks.conditions import RESULTS
from benchmarks.recipes_measured.__main__ import TOLD, arms
from benchmarks.recipes_measured.excerpt import copy_evenly
from benchmarks.recipes_measured.networks import NETWORKS
from benchmarks.recipes_measured.protocol import PROTOCOLS, untouched
from benchmarks.recipes_measured.report import effects_of, page, write
from benchmarks.studies.jobs import Jobs, Write
from recipes.check.suggestions import find
from recipes.format.effects import FILE, effects_from
from recipes.format.library import tables_of
from recipes.models.names import family_of

SHORT = PROTOCOLS["reduced"]
ROWS = Jobs(RESULTS / f"recipes_measured_{TOLD}.csv")


def test_every_recipe_is_measured_on_a_network_of_a_family_that_it_names() -> None:
    known = arms()
    assert {arm.recipe for arm in known.values()} == set(recipes.names()) and len(known) >= 60
    for arm in known.values():
        families = {family_of(model) for model in tables_of(arm.recipe)["models"]}
        assert family_of(NETWORKS[arm.network].model) in families, arm


def test_every_family_comes_early_and_pruning_last() -> None:
    order = [arm for arm in arms().values() if arm.network != "resnet56"]
    assert len({arm.recipe.partition("-")[0] for arm in order[:12]}) == 12
    pruned = ["pruning" in tables_of(arm.recipe) for arm in order]
    assert pruned == sorted(pruned) and any(pruned)


@pytest.mark.parametrize("name", ["resnet-erase-affine", "resnet-ap-stages", "vit-mlp-budget", "regnet-erase-ap"])
def test_a_control_is_trained_as_its_recipe_and_otherwise_untouched(name: str) -> None:
    recipe = SHORT.shortened(recipes.load(name))
    control = untouched(recipe)
    assert recipe.finetune is not None and control.finetune is not None and control.rules == ()
    assert (recipe.pruning is None) == (control.pruning is None)
    assert control.pruning is None or (control.pruning.rounds, control.pruning.epochs) == (0, 1)
    for part in ("epochs", "lr", "opt", "batch_size", "distill", "weight_decay", "warmup_epochs"):
        assert getattr(control.finetune, part) == getattr(recipe.finetune, part)


def test_a_recipe_is_shortened_and_otherwise_as_it_is() -> None:
    whole = recipes.load("resnet-lamp-ap")
    short = SHORT.shortened(whole)
    assert whole.pruning is not None and short.pruning is not None and short.finetune is not None
    assert (short.pruning.rounds, short.pruning.epochs, short.finetune.epochs) == (2, 1, 1)
    assert (short.pruning.criterion, short.pruning.ap_share) == (whole.pruning.criterion, whole.pruning.ap_share)
    erased = SHORT.shortened(recipes.load("resnet-erase-first"))
    assert erased.finetune is not None and (erased.finetune.epochs, erased.finetune.fit_affine) == (1, 20)
    assert erased.finetune.lr == 0.01 * 32 / 128, "in proportion to the batch"
    assert erased.rules == recipes.load("resnet-erase-first").rules


def test_an_excerpt_takes_files_at_equal_distances_from_all_classes(tmp_path: Path) -> None:
    names = [f"train/{label}/{number}.png" for label in ("bird", "cat") for number in range(6)]
    for shard in (0, 1):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for name in names[shard::2]:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                tar.addfile(member, BytesIO(name.encode()))
    copy_evenly(sorted(tmp_path.glob("train-*.tar")), tmp_path / "train.tar", 4)
    with tarfile.open(tmp_path / "train.tar") as tar:
        assert tar.getnames() == [names[0], names[3], names[6], names[9]]
        read = tar.extractfile(names[3])
        assert read is not None and read.read() == names[3].encode()
    with pytest.raises(ValueError, match="12 files"):
        copy_evenly(sorted(tmp_path.glob("train-*.tar")), tmp_path / "more.tar", 13)
    assert not (tmp_path / "more.tar").exists()


def test_rows_become_effects_and_a_page(tmp_path: Path) -> None:
    def do(arm: str, seed: int, write: Write) -> None:
        write({
            "before": 0.9, "after_surgery": math.nan, "accuracy": 0.88, "control": 0.91, "difference": -0.03,
            "error": 0.004, "seconds": 12.0, "parameters_before": 100, "macs_before": 10, "relus_before": 8,
            "parameters_after": 100, "macs_after": 10, "relus_after": 8, "density": 0.512, "ms": 0.7, "time": 1.01,
            "merged_time": math.nan,
        })  # fmt: skip

    jobs = Jobs(tmp_path / "rows.csv")
    jobs.carry_out(["resnet-ap", "resnet-budget, deeper"], [0], do, "cpu")
    file = write(SHORT, arms(), jobs, tmp_path / "effects.json")
    told = effects_from((tmp_path / "effects.json").read_text(encoding="utf-8"))
    assert [(row.recipe, row.network) for row in told.rows] == [
        ("resnet-ap", "ResNet-20"), ("resnet-budget", "ResNet-56"),
    ]  # fmt: skip
    assert (told.rows[0].after_surgery, told.rows[0].merged_time, told.rows[0].relus) == (None, None, 8)
    assert "| resnet-ap | ResNet-20 | 90.0 | - | 88.0 | 91.0 | -3.0 ± 0.4 | 1.01 |" in file.read_text(encoding="utf-8")


def test_what_the_package_tells_is_what_the_rows_say() -> None:
    found = effects_of(SHORT, arms(), ROWS.rows())
    packaged = Path(recipes.__file__).parent / FILE
    assert packaged.read_text(encoding="utf-8") == found.to_json(), "python -m benchmarks.recipes_measured --page-only"
    lines = ROWS.file.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page(SHORT, found, ROWS) if line.startswith("| ")] == [
        line for line in lines if line.startswith("| ")
    ]


def test_what_is_suggested_has_these_figures() -> None:
    found = find("cifar/resnet20", "speed")
    assert {row.effect for row in found if row.effect} <= set(effects_of(SHORT, arms(), ROWS.rows()).rows)
