"""Studies: their arms are consistent, and their pages show what their rows contain."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.__main__ import STUDIES
from benchmarks.conditions import processor
from benchmarks.studies import (
    activations,
    ap,
    erase,
    found,
    learnability,
    rectifiers,
    reproducibility,
    rounds,
    trainings,
    vit,
    vit_ap,
    xor,
)
from benchmarks.studies.jobs import Jobs, Protocol, Write
from benchmarks.studies.networks import Network, resnet
from benchmarks.studies.study import Study
from recipes.data import open_data
from recipes.models.cifar_resnet import CifarResNet
from surgery import erase_relu, swap

ALL = [ap.STUDY, erase.study(20), erase.study(110), activations.STUDY, vit.STUDY, vit_ap.STUDY, found.STUDY]
SMALL = [reproducibility.STUDY, learnability.STUDY, rectifiers.STUDY, xor.STUDY]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Shallow(Network):
    """A network like those of the studies, of one block a stage."""

    def build(self, seed: int, *, fresh: bool) -> nn.Module:
        torch.manual_seed(seed)
        return CifarResNet(8)


NETWORK = Shallow("cifar/resnet8", resnet(20).trained, resnet(20).fresh)
TINY = Protocol("tiny", images=128, test_images=100, epochs=1, fresh_epochs=1, seeds=1, rounds=2)


@pytest.mark.parametrize("study", [*ALL, *SMALL], ids=lambda study: study.name)
def test_arms_are_compared_with_arms_of_the_same_start(study: Study[Any, Any]) -> None:
    compared = {name: arm.control for name, arm in study.arms.items() if arm.control}
    assert len(compared) >= len(study.arms) // 2
    for name, control in compared.items():
        assert study.arms[control].fresh == study.arms[name].fresh


@pytest.mark.parametrize("study", ALL, ids=lambda study: study.name)
def test_every_study_has_the_three_protocols_and_its_command(study: Study[Any, Any]) -> None:
    smoke, reduced, full = (study.protocols[name] for name in ("smoke", "reduced", "full"))
    assert smoke.images < reduced.images < full.images == 50_000
    if short := study.protocols.get("short"):
        assert smoke.images < short.images < reduced.images
    assert reduced.seeds >= 3 and full.seeds >= 5
    assert study.command.split()[0].removeprefix("benchmarks.studies.") in STUDIES


def test_small_studies_have_them_too() -> None:
    assert [list(study.protocols) for study in SMALL] == [["smoke", "reduced", "full"]] * len(SMALL)
    assert {study.command.removeprefix("benchmarks.studies.") for study in SMALL} < set(STUDIES)


def test_a_network_of_trained_weights_needs_no_more_epochs_than_the_protocol_says() -> None:
    protocol = Protocol("small", images=1, test_images=1, epochs=2, fresh_epochs=1, seeds=1)
    network = resnet(20)
    assert network.options(protocol, fresh=False).epochs == 2
    assert (network.options(protocol, fresh=True).epochs, network.options(protocol, fresh=True).warmup_epochs) == (1, 0)


def two_rounds(arm: str, seed: int, write: Write) -> None:
    """AP loses a point in the first round and two in the second, the same for every seed."""
    for number in range(3):
        lost = 0.01 * number if arm == "ap" else 0.0
        write({
            "round": number, "living": 0.8**number, "accuracy": 0.9 - lost + 0.001 * seed, "dynamic": 0.02,
            "static": 0.0, "dynamic_elements": 0.03,
        })  # fmt: skip


def two_epochs(arm: str, seed: int, write: Write) -> None:
    for epoch in range(3):
        write({
            "epoch": epoch, "accuracy": 0.5 + 0.1 * epoch + (0.02 if arm == "abrupt" else 0.0) * seed,
            "test_loss": 1.5 - 0.25 * epoch, "loss": 1.0, "step_time": 1.25, "step_memory": 0.9,
        })  # fmt: skip


def test_the_page_of_rounds_tells_differences_paired_by_seed(tmp_path: Path) -> None:
    protocol = Protocol("tiny", images=1, test_images=1, epochs=1, fresh_epochs=1, seeds=2, rounds=2)
    page = written(ap.STUDY, protocol, ["none", "ap"], two_rounds, tmp_path)
    assert "| arm | 100% | 64% | control | at the end | mean over rounds | seeds |" in page
    assert "| none | 90.05 ± 0.07 | 90.05 ± 0.07 |  |  |  | 2 |" in page
    assert "| ap | 90.05 ± 0.07 | 88.05 ± 0.07 | none | -2.00 (-2.00 to -2.00) | -1.50 (-1.50 to -1.50) | 2 |" in page
    assert "| ap | 2.00 ± 0.00 | 2.00 ± 0.00 | 2.00 ± 0.00 | 3.00 ± 0.00 | 0.00 ± 0.00 | 64.00 ± 0.00 |" in page
    assert "- command: `python -m benchmarks.studies.ap --protocol tiny --arms none ap`" in page


def test_the_page_of_trainings_tells_accuracy_loss_and_cost(tmp_path: Path) -> None:
    protocol = Protocol("tiny", images=1, test_images=1, epochs=2, fresh_epochs=1, seeds=3)
    page = written(erase.study(20), protocol, ["control", "abrupt"], two_epochs, tmp_path)
    assert "| control | 50.00 ± 0.00 | 70.00 ± 0.00 | 1.000 ± 0.000 |  |  | 1.25 | 0.90 | 3 |" in page
    # 0, 2 and 4 points: mean 2, deviation 2, half of the interval 4.303 x 2 / sqrt(3) = 4.97
    assert "| abrupt | 52.00 ± 2.00 | 72.00 ± 2.00 | 1.000 ± 0.000 | control | +2.00 (-2.97 to +6.97) |" in page


def test_pages_tell_of_seeds_that_are_shared_and_of_nothing_that_is_not_there(tmp_path: Path) -> None:
    protocol = Protocol("tiny", images=1, test_images=1, epochs=2, fresh_epochs=1, seeds=3)
    jobs = Jobs(tmp_path / "erase_resnet20_tiny.csv")
    with pytest.raises(ValueError, match="no rows in"):
        erase.study().write_page(protocol, jobs)
    jobs.carry_out(["control"], [0, 1, 2], two_epochs, "cpu")
    page = written(erase.study(), Protocol("tiny", 1, 1, 2, 1, seeds=1), ["abrupt"], two_epochs, tmp_path)
    assert "+0.00 (one seed)" in page


def test_structural_hosts_have_a_table_of_their_own(tmp_path: Path) -> None:
    def narrower(arm: str, seed: int, write: Write) -> None:
        for number in range(3):
            density = (0.7 if arm == "structural" else 0.8) ** number
            write(
                {"round": number, "living": density, "accuracy": 0.9, "dynamic": 0, "static": 0, "dynamic_elements": 0}
            )

    protocol = Protocol("tiny", images=1, test_images=1, epochs=1, fresh_epochs=1, seeds=1, rounds=2)
    page = written(ap.STUDY, protocol, ["none", "structural"], narrower, tmp_path)
    assert "| arm | 100% | 64% |" in page and "| arm | 100% | 49% |" in page


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The studies train on scikit-learn's digits."""
    for module in (rounds, trainings):
        monkeypatch.setattr(module, "open_data", lambda *_, **counts: open_data("digits", size=16, **counts))


def collected(measure: Callable[[Write], None]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    measure(lambda row: rows.append({**row}))
    return rows


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("host", ["global_magnitude", "torch_pruning"])
def test_rounds_cut_what_they_say_and_ap_is_no_copy_of_its_control(host: str) -> None:
    found = {}
    for name, ap_options in (("control", None), ("ap", {}), ("again", {})):
        arm = rounds.Arm("", host, ap_options, fresh=True)
        found[name] = collected(partial(rounds.measure, NETWORK, arm, 0, TINY, "cpu"))
    assert found["ap"] == found["again"]
    assert found["control"][0] == found["ap"][0]
    assert found["control"][1:] != found["ap"][1:]
    for rows in found.values():
        assert [row["round"] for row in rows] == [0, 1, 2]
        assert [row["living"] for row in rows] == pytest.approx(
            [1, 0.8, 0.64], abs=1e-4 if host != "torch_pruning" else 0.05
        )
        assert all(
            0 <= row[name] <= 1 for row in rows for name in ("accuracy", "dynamic", "static", "dynamic_elements")
        )


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_trainings_begin_alike_and_look_after_every_epoch() -> None:
    found = {}
    protocol = replace(TINY, fresh_epochs=2)
    for name, rule in (("control", None), ("prelu", swap("prelu")), ("erased", erase_relu())):
        arm = trainings.Arm("", rule, fresh=True)
        found[name] = rows = collected(partial(trainings.measure, NETWORK, arm, 0, protocol, "cpu"))
        assert [row["epoch"] for row in rows] == [0, 1, 2]
        assert rows[0]["step_time"] > 0 and math.isnan(rows[1]["step_time"])
    start = {name: (rows[0]["accuracy"], rows[0]["test_loss"]) for name, rows in found.items()}
    assert start["control"] == start["prelu"] != start["erased"]
    assert found["control"][-1]["test_loss"] != found["prelu"][-1]["test_loss"]
    assert found["control"][0]["step_memory"] == 1 < found["prelu"][0]["step_memory"]


@pytest.mark.usefixtures("few_digits")
def test_a_training_that_diverges_is_a_result() -> None:
    arm = trainings.Arm("", swap("squared_relu"), fresh=True)
    rows = collected(partial(trainings.measure, NETWORK, arm, 0, TINY, "cpu"))
    assert [row["epoch"] for row in rows] == [0, 1]
    assert not math.isfinite(rows[1]["test_loss"]) and rows[1]["accuracy"] < 0.3


def written(study: Study[Any, Any], protocol: Protocol, arms: list[str], do: Any, folder: Path) -> str:
    """The page of these rows; its plot is an image."""
    file = folder / f"{study.name}_{protocol.name}.csv"
    Jobs(file).carry_out(arms, range(protocol.seeds), do, "cpu")
    study.write_page(protocol, Jobs(file))
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    assert processor() in page
    return page


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ap", "erase"])
def test_smoke_runs_arms_in_processes(name: str, tmp_path: Path) -> None:
    """Every fourth arm: of each a process builds, edits, trains and tests a network."""
    study = ap.STUDY if name == "ap" else erase.study()
    arms = list(study.arms)[::4]
    command = [sys.executable, "-m", f"benchmarks.studies.{name}", "--protocol", "smoke", "--results", str(tmp_path)]
    subprocess.run(
        [*command, "--at-once", "2", "--arms", *arms], check=True, cwd=ROOT, env=os.environ, capture_output=True
    )
    rows = Jobs(tmp_path / f"{study.name}_smoke.csv").rows()
    assert arms == sorted(rows, key=arms.index)
    assert (tmp_path / f"{study.name}_smoke.md").is_file()
