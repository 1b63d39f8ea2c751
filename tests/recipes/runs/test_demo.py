"""The demo, small: it trains, erases, prunes with AP, fine-tunes and plots."""

import json
from pathlib import Path

import pytest

import recipes
from recipes.runs.demo import demo
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile
from tests.asserts import assert_raises

pytestmark = pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, list[str]]:
    said: list[str] = []
    folder = tmp_path_factory.mktemp("demo") / "out"
    outcome = demo(folder, img_size=8, epochs=3, finetune_epochs=1, rounds=1, say=said.append)
    return folder, outcome, said


@pytest.mark.slow
def test_it_trains_erases_prunes_and_keeps_what_was_learned(watched: tuple[Path, Outcome, list[str]]) -> None:
    _, outcome, _ = watched
    # Chance is 0.1; how far three epochs get hangs on how a processor rounds.
    assert outcome.before.accuracy > 0.7
    assert outcome.after.accuracy > outcome.before.accuracy - 0.1
    assert (outcome.erased, outcome.swapped) == (9, 0)
    assert outcome.after.living == pytest.approx(0.8, abs=1e-3)


def test_it_draws_its_curves_and_keeps_both_networks(watched: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, said = watched
    assert (folder / "edited" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert said[-1] == f"curves in {folder / 'edited' / 'curves.png'}"
    assert json.loads((folder / "edited" / "result.json").read_text())["after"]["accuracy"] == outcome.after.accuracy
    trained, edited = (recipes.load_model(folder / place) for place in ("trained", "edited"))
    assert trained.state_dict().keys() == edited.state_dict().keys()


def test_it_says_what_it_does(watched: tuple[Path, Outcome, list[str]]) -> None:
    _, _, said = watched
    assert said[0] == "training cifar/resnet20 on digits"
    text = "\n".join(said)
    assert "9 of 19 relu calls erased" in text and "round 1 of 1: density 80.0%" in text


def test_a_folder_in_use_is_refused(watched: tuple[Path, Outcome, list[str]]) -> None:
    folder, _, _ = watched
    assert_raises(BadFile, lambda: demo(folder), "is not empty")


@pytest.mark.slow
def test_without_a_folder_it_takes_the_next_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("surgery-demo", "surgery-demo-2"):
        demo(img_size=8, epochs=0, finetune_epochs=1, rounds=0, train_num_samples=64, say=lambda _: None)
        assert (tmp_path / name / "edited" / "result.json").is_file()
