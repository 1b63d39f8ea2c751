"""Model cards describe the content of a folder, and nothing about the machine."""

import getpass
import os
import re
import socket
from pathlib import Path

import pytest
import torch

import surgery
from recipes.models.build import build
from recipes.runs.evaluate import Measured
from recipes.runs.model_card import card
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile
from tests.asserts import assert_raises

BEFORE = Measured(0.9171, 269722, 1.0, 81108608, 0.0125, 0.0, 1234.4)
AFTER = Measured(0.9205, 269722, 0.64, 81108608, None, None, 12.34)
RECIPE = """format = 1
about = "Erase the last ReLU of every second block."

[[rule]]
use = "erase_relu"
share = 0.5
"""


def fill(folder: Path, *, name: str | None = "cifar/resnet20") -> Path:
    """The folder of a run on a small network, result and recipe included."""
    model, report = surgery.transform(build("cifar/resnet20"), surgery.erase_relu(share=0.5))
    surgery.save(model, folder, name=name)
    asked = str(folder / "mine.toml"), str(folder / "images")
    outcome = Outcome.of("cifar/resnet20", *asked, BEFORE, AFTER, report, 12.0)
    (folder / "result.json").write_text(outcome.to_json())
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def test_a_card_says_what_was_done_and_how_to_load_it(tmp_path: Path) -> None:
    text = card(fill(tmp_path))
    assert text.startswith("---\nlibrary_name: activation-surgery\n")
    for said in (
        "# cifar/resnet20, mine.toml",
        "erase_relu(location='last', share=0.5",
        "5 times relu to identity",
        "| accuracy | 91.71% | 92.05% |",
        "recipes.load_model(FOLDER)",
        "Do not load it in any other way",
        RECIPE,
        f"torch {torch.__version__}",
        "timm ",
    ):
        assert said in text, said


def test_a_card_names_no_path_no_user_and_no_machine(tmp_path: Path) -> None:
    text = card(fill(tmp_path))
    secrets = {str(tmp_path), tmp_path.name, os.getcwd(), str(Path.home()), getpass.getuser(), socket.gethostname()}
    assert not [word for word in secrets if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]


def test_a_card_is_made_of_what_is_there(tmp_path: Path) -> None:
    surgery.save(build("cifar/resnet20"), tmp_path, name="cifar/resnet20")
    text = card(tmp_path)
    assert "No activation was edited" in text and "Do not load it in any other way" not in text
    assert "## Measured" not in text and "## Recipe" not in text
    fill(tmp_path, name=None)
    assert "surgery.load(FOLDER, fresh)" in card(tmp_path) and "load_model" not in card(tmp_path)


def test_a_recipe_cannot_leave_its_fence(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "recipe.toml").write_text('about = "```"\n')
    assert '````toml\nabout = "```"\n````' in card(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["result.json", "recipe.toml", "surgery.json"])
def test_a_damaged_folder_has_no_card(file: str, tmp_path: Path) -> None:
    (fill(tmp_path) / file).write_bytes(b"\xff\xfe")
    assert_raises(BadFile, lambda: card(tmp_path))


def test_a_folder_of_something_else_has_no_card(tmp_path: Path) -> None:
    assert_raises(BadFile, lambda: card(tmp_path), "surgery.json")
