"""Runs: the order of the stages, the content of the folder, and resuming."""

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pruning
import recipes
import surgery
from recipes.format.recipe import Pruning, Recipe
from recipes.models import names
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile, BadValue, CannotLook, NothingPicked, UnknownName, WrongModel
from tests.asserts import assert_raises
from tests.recipes.runs.small import FADE, MODEL, SHORT, small_run

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")

WHOLE = Recipe(
    "whole", (surgery.erase_relu(fade=True), surgery.swap("pwlu", remaining=True, params={"warmup": 0.5})),
    pruning=Pruning(share=0.2, rounds=2, ap_share=0.02), finetune=replace(SHORT, model_ema=True, recalibrate=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, list[str]]:
    """A run with all stages."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, *small_run(WHOLE, folder)


@pytest.mark.slow
def test_the_stages_come_in_their_order(whole: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, said = whole
    with (folder / "log.csv").open() as stream:
        stages = [row["phase"] for row in csv.DictReader(stream)]
    assert stages == ["fit", "round 0", "round 1", "round 2", "final"]
    assert [line for line in said if " of 2: " in line] == [
        "round 1 of 2: density 80.0%", "round 2 of 2: density 64.0%",
    ]  # fmt: skip
    assert outcome.before.living == 1.0 and outcome.after.living == pytest.approx(0.64, abs=1e-3)
    assert (outcome.erased, outcome.swapped) == (4, 8)


def test_what_is_kept_reloads_bit_equal(whole: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, _ = whole
    model = recipes.load_model(folder).eval()
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)
    masks = pruning.Masks.load(folder / "masks.safetensors")
    assert masks.share == outcome.after.living
    masks.check_zero(model)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "log.csv", "masks.safetensors", "model.safetensors", "recipe.toml", "result.json",
            "run.json", "surgery.json"}  # fmt: skip
    kept = recipes.load(str(folder / "recipe.toml"))
    assert (kept.rules, kept.pruning, kept.finetune) == (WHOLE.rules, WHOLE.pruning, WHOLE.finetune)


def test_a_finished_run_tells_its_outcome_again(whole: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, _ = whole
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, _ = small_run(WHOLE, folder, resume=True)
    assert again == outcome
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_run_without_resume_and_another_run_are_refused(whole: tuple[Path, Outcome, list[str]]) -> None:
    folder, _, _ = whole
    assert_raises(BadFile, lambda: small_run(WHOLE, folder), "contains a run", "--resume")
    assert_raises(WrongModel, lambda: small_run(WHOLE, folder, resume=True, seed=1), "another run: seed differ")
    assert_raises(WrongModel, lambda: small_run(FADE, folder, resume=True), "recipe differ")


def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    output = tmp_path / "out"
    cases: list[tuple[type[Exception], Recipe | str, dict[str, Any], str]] = [
        (UnknownName, "resnet-erase-lst", {}, "resnet-erase-last"),
        (BadValue, Recipe("empty", ()), {}, "nothing to do"),
        (BadValue, replace(FADE, finetune=replace(SHORT, distill=True)), {}, "cannot be a teacher"),
        (BadValue, FADE, {"device": "abacus"}, "no device 'abacus'"),
        (BadValue, FADE, {"device": "meta"}, "no device 'meta'"),
        (NothingPicked, Recipe("none", (surgery.swap("silu", activation="gelu"),)), {}, "gelu"),
        (BadValue, replace(FADE, finetune=replace(SHORT, mixup=0.2, batch_size=33)), {}, "even number"),
    ]
    for error, recipe, options, says in cases:
        assert_raises(error, lambda r=recipe, o=options: small_run(r, output, **o), says)
        assert not output.exists()
    assert_raises(UnknownName, lambda: recipes.run(FADE, "timm/test_resnt", "digits", output), "test_resnet")
    assert_raises(UnknownName, lambda: recipes.run(FADE, MODEL, "digit", output), "digits")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    assert_raises(BadFile, lambda: small_run(FADE, tmp_path / "other", resume=True), "not empty")


def test_pruning_alone_is_kept_and_reloads(tmp_path: Path) -> None:
    recipe = Recipe("prune", (), pruning=Pruning(share=0.5, rounds=1, rewind="none"), finetune=replace(SHORT, epochs=0))
    outcome, _ = small_run(recipe, tmp_path / "out")
    assert outcome.after.living == pytest.approx(0.5, abs=1e-3)
    model = recipes.load_model(tmp_path / "out")
    assert pruning.Masks.of(model).share == outcome.after.living
    assert surgery.history_of(model) == ()


@pytest.mark.slow
def test_a_result_is_where_the_next_run_starts(whole: tuple[Path, Outcome, list[str]], tmp_path: Path) -> None:
    folder, outcome, _ = whole
    said: list[str] = []
    recipe = Recipe("more", (), finetune=replace(SHORT, epochs=0))
    again = recipes.run(recipe, str(folder), "digits", tmp_path / "out", val_num_samples=50, say=said.append)
    assert again.before.accuracy == again.after.accuracy == outcome.after.accuracy
    first, second = (recipes.load_model(place).eval() for place in (folder, tmp_path / "out"))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(first(x), second(x))


@pytest.mark.slow
def test_a_pruned_network_stays_pruned(whole: tuple[Path, Outcome, list[str]], tmp_path: Path) -> None:
    folder, outcome, _ = whole
    recipe = Recipe("more", (), finetune=replace(SHORT, distill=True))
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "say": lambda _: None}
    again = recipes.run(recipe, str(folder), "digits", tmp_path / "out", **options)
    assert again.after.living == outcome.after.living
    weights, learned = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    assert not torch.equal(weights["conv1.0.weight"], learned["conv1.0.weight"]), "it was trained"


@pytest.mark.slow
def test_a_pruned_network_is_pruned_further_from_where_it_was(
    whole: tuple[Path, Outcome, list[str]], tmp_path: Path
) -> None:
    folder, outcome, _ = whole
    recipe = Recipe("further", (), pruning=Pruning(share=0.5, rounds=1), finetune=SHORT)
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "say": lambda _: None}
    further = recipes.run(recipe, str(folder), "digits", tmp_path / "pruned", **options)
    assert further.before.living == outcome.after.living
    assert further.after.living == pytest.approx(0.32, abs=1e-3)
    former, masks = (pruning.Masks.load(place / "masks.safetensors") for place in (folder, tmp_path / "pruned"))
    assert all(not (masks[name] & ~former[name]).any() for name in former), "what was pruned stays so"
    recipes.run(Recipe("more", (), finetune=SHORT), str(tmp_path / "pruned"), "digits", tmp_path / "tuned", **options)
    assert pruning.Masks.load(tmp_path / "tuned" / "masks.safetensors") == masks, "and is passed on"
    masks.check_zero(recipes.load_model(tmp_path / "tuned"))


@pytest.mark.slow
def test_a_head_that_begins_at_zero_learns_while_the_network_is_pruned(tmp_path: Path) -> None:
    model = recipes.build(MODEL, num_classes=10)
    torch.nn.init.zeros_(model.fc.weight)
    surgery.save(model, tmp_path / "zeros", name=MODEL, kwargs={"num_classes": 10})
    said: list[str] = []
    asked = Pruning(criterion="layer_magnitude", share=0.2, rounds=1)
    recipe = Recipe("prune", (), pruning=asked, finetune=SHORT)
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "say": said.append}
    outcome = recipes.run(recipe, str(tmp_path / "zeros"), "digits", tmp_path / "out", **options)
    assert (outcome.before.living, outcome.after.living) == (1.0, pytest.approx(0.8, abs=1e-3))
    head, masks = recipes.load_model(tmp_path / "out").fc, pruning.Masks.load(tmp_path / "out" / "masks.safetensors")
    assert torch.equal(head.weight != 0, masks["fc.weight"]) and masks["fc.weight"].any()
    lines = [line for line in said if "weights are zero" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{head.weight.numel():,} of {masks.size:,}")
    assert "will learn" in lines[0]


def test_a_pruned_network_gets_a_new_classifier_for_other_data(tmp_path: Path) -> None:
    model = recipes.build(MODEL, num_classes=4)
    masks = pruning.global_magnitude()(pruning.Round.of(model, pruning.snapshot(model)), 0.5)
    masks.lay_over(model)
    surgery.save(model, tmp_path / "four", name=MODEL, kwargs={"num_classes": 4})
    masks.save(tmp_path / "four" / "masks.safetensors")
    said: list[str] = []
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "say": said.append}
    recipes.run(Recipe("tune", (), finetune=SHORT), str(tmp_path / "four"), "digits", tmp_path / "ten", **options)
    assert any("10 classes, where the weights have 4" in line for line in said)
    tuned, now = recipes.load_model(tmp_path / "ten"), pruning.Masks.load(tmp_path / "ten" / "masks.safetensors")
    assert now["fc.weight"].shape == tuned.fc.weight.shape == (10, model.fc.in_features) and now["fc.weight"].all()
    assert all(torch.equal(now[name], masks[name]) for name in masks if name != "fc.weight")
    now.check_zero(tuned)


def test_a_size_that_a_model_does_not_take_is_refused(tmp_path: Path) -> None:
    recipe = Recipe("none", (), finetune=replace(SHORT, epochs=0))
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "img_size": 16}
    for model, error, says in (
        ("torchvision/alexnet", CannotLook, "does not run on images of 16 pixels"),
        ("torchvision/maxvit_t", BadValue, "supports only one image size"),
    ):
        assert_raises(error, lambda m=model: recipes.run(recipe, m, "digits", tmp_path / "out", **options), says)
        assert not (tmp_path / "out").exists()


def test_what_a_folder_says_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    assert_raises(BadFile, lambda: small_run(FADE, tmp_path, resume=True), "run.json cannot be read")
    assert (tmp_path / "run.json").read_text() == "[]"


class Killed(BaseException):
    """Like a signal: nothing catches it."""


@pytest.mark.slow
def test_a_run_that_is_cut_short_anywhere_ends_the_same(
    whole: tuple[Path, Outcome, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of every stage is interrupted once, at random intervals; finished work is not repeated."""
    from recipes.log.journal import Journal

    left = 0
    step = Journal.step

    def interrupted(self: Journal, *args: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        step(self, *args)

    monkeypatch.setattr(Journal, "step", interrupted)
    kills, chance = 0, random.Random(0)
    while True:
        left = chance.randint(3, 9)
        try:
            outcome, _ = small_run(WHOLE, tmp_path / "out", resume=True, recovery_interval=2)
            break
        except Killed:
            kills += 1
    assert kills >= 2
    folder, uninterrupted, _ = whole
    assert same_weights(folder, tmp_path / "out")
    assert replace(outcome.after, images_s=0.0) == replace(uninterrupted.after, images_s=0.0)
    logs = [(place / "log.csv").read_text().splitlines() for place in (folder, tmp_path / "out")]
    assert [line.split(",")[:4] for line in logs[0]] == [line.split(",")[:4] for line in logs[1]]


def same_weights(first: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, other))
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def command(output: Path, *more: str) -> list[str]:
    words = ["run", "resnet-erase-fade", "--model", MODEL, "--data", "digits", "--output", str(output), *more]
    return [*words, "--train-num-samples", "256", "--val-num-samples", "50", "--epochs", "2", "--batch-size", "16"]


@pytest.mark.slow
def test_a_run_that_is_killed_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    """By SIGKILL, at random moments of the whole process."""
    start = [sys.executable, "-m", "recipes.cli"]
    pruned = ("--share", "0.2", "--rounds", "1", "--recovery-interval", "3")
    subprocess.run([*start, *command(tmp_path / "whole", *pruned)], check=True, capture_output=True)
    kills, chance = 0, random.Random(0)
    while True:
        child = subprocess.Popen(
            [*start, *command(tmp_path / "killed", *pruned, "--resume")], stdout=subprocess.DEVNULL
        )
        if not killed_after(child, tmp_path / "killed", chance.randint(8, 14), chance.uniform(0, 0.3)):
            assert child.returncode == 0
            break
        kills += 1
    assert kills >= 2
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def killed_after(child: subprocess.Popen[bytes], folder: Path, saves: int, more: float) -> bool:
    """Kill a process some seconds after it has written a number of checkpoints; False if it ends first."""
    seen: set[int] = set()
    while child.poll() is None:
        seen |= {path.stat().st_mtime_ns for path in folder.glob("training/*/training.json")}
        if len(seen) >= saves:
            time.sleep(more)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_two_machines_run_under_torchrun(tmp_path: Path) -> None:
    """Two agents of torchrun with a process each, which meet at an address, as on two machines with a shared folder."""
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend",
             "c10d", "--rdzv-endpoint", address, "--rdzv-id", "run", "--local-addr", "localhost", "-m",
             "recipes.cli"]  # fmt: skip
    asked = [*start, *command(tmp_path / "out", "--share", "0.2", "--rounds", "1")]
    nodes = [subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(errors for _, errors in told)
    said = "".join(out for out, _ in told)
    assert said.count("saved in") == said.count("calls erased") == 1, "one process tells"
    model = recipes.load_model(tmp_path / "out")
    assert pruning.Masks.of(model).share == pytest.approx(0.8, abs=1e-3)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("hub", [True, False], ids=["hub", "catalogue"])
def test_a_run_looks_its_model_up_once(hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    if hub:
        surgery.save(recipes.build(MODEL, num_classes=10), tmp_path / "net", name=MODEL, kwargs={"num_classes": 10})
        monkeypatch.setattr(names, "pull", lambda repo: asked.append(repo) or tmp_path / "net")
    else:
        in_catalogue = names._in_catalogue
        monkeypatch.setattr(names, "_in_catalogue", lambda name: asked.append(name) or in_catalogue(name))
    recipe = Recipe("none", (), finetune=replace(SHORT, epochs=0))
    options: dict[str, Any] = {"train_num_samples": 64, "val_num_samples": 50, "say": lambda _: None}
    recipes.run(recipe, "hf-hub:me/net" if hub else "test_resnet", "digits", tmp_path / "out", **options)
    assert asked == (["me/net"] if hub else ["test_resnet"])
