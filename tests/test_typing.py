"""Types as an editor sees them: models keep their type, and invalid words are reported."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow  # a checker reads all of torch

# Each `reveal_type` is followed by what it should say, without the modules of the classes.
PROGRAM = """
from pathlib import Path

import torch
from torchvision.models import ResNet, resnet18

import pruning
import recipes
import surgery

model: ResNet = resnet18()
batches = [torch.rand(2, 3, 32, 32)]
rules = [surgery.erase_relu("last", share=0.5, order="back"), surgery.swap("pwlu", remaining=True)]

edited, report = surgery.transform(model, rules)
reveal_type(edited)  # ResNet
reveal_type(report)  # Report
reveal_type(surgery.transform_(model, rules))  # Report
reveal_type(surgery.apply_plan(model, surgery.make_plan(surgery.find_sites(model), rules)))  # Report
reveal_type(surgery.undo(edited))  # ResNet
reveal_type(surgery.settle(edited))  # ResNet
reveal_type(surgery.initialize(edited, fan="out"))  # ResNet
reveal_type(surgery.fit_affine(edited, batches))  # ResNet
reveal_type(surgery.fold_affine(edited))  # ResNet
reveal_type(surgery.recalibrate(edited, batches))  # ResNet
reveal_type(surgery.load("folder", model=model))  # ResNet
reveal_type(surgery.__version__)  # str

reveal_type(pruning.dead_neurons(model, batches, role="gate"))  # DeadNeurons
reveal_type(pruning.hosts.torch_pruning.step(None))  # Survivors
reveal_type(pruning.with_ap(pruning.global_magnitude(), 0.1, "any", by="magnitude"))  # WithAP

recipe = recipes.load("resnet-erase-last")
reveal_type(recipe)  # Recipe
reveal_type(recipe.finetune)  # Finetune | None
reveal_type(surgery.transform(model, recipe)[0])  # ResNet
reveal_type(recipes.names("resnet*"))  # list[str]
reveal_type(recipes.build("timm/resnet18"))  # Module
reveal_type(recipes.load_model(Path("folder")))  # Module
reveal_type(recipes.run(recipe, model="timm/resnet18"))  # Outcome
reveal_type(recipes.data.open_data("digits"))  # Data
"""

# Every call says a word that its argument does not know, or a name that is not there.
MISTAKES = """
import pruning
import recipes
import surgery
from torch import nn

surgery.erase_relu("lasst")
surgery.erase_relu(order="sideways")
surgery.erase_relu(stand_in="nothing")
surgery.erase_relu(vgg_odd="drop")
surgery.swap("pwlu", start="zero")
surgery.rectify_scores("logits")
surgery.initialize(nn.ReLU(), fan="mean")
surgery.transform("resnet18", surgery.erase_relu())
surgery.activations.only("fast")
pruning.layer_magnitude(within="norms")
pruning.n_of_m(2, 4, elsewhere="prune")
pruning.with_ap(pruning.lamp(), 0.1, by="luck")
recipes.Pruning(rewind="yes")
recipes.Finetune(sched="linear")
recipes.run("resnet-erase-last", model="timm/resnet18", trackers=["mlflow"])
recipes.lode("resnet-erase-last")
"""


def test_mypy_knows_the_types_and_sees_every_mistake(mypy: str) -> None:
    revealed = re.findall(r"program.py:(\d+): note: Revealed type is \"(.*)\"", mypy)
    assert {line: without_modules(text) for line, text in revealed} == expected(PROGRAM), mypy
    assert not re.search(r"program.py:\d+: error", mypy), mypy
    assert {int(line) for line in re.findall(r"mistakes.py:(\d+): error", mypy)} == calls(MISTAKES), mypy


def test_pyright_knows_the_types_and_sees_every_mistake(pyright: str) -> None:
    revealed = re.findall(r"program.py:(\d+):\d+ - information: Type of \".*\" is \"(.*)\"", pyright)
    assert dict(revealed) == expected(PROGRAM), pyright
    assert not re.search(r"program.py:\d+:\d+ - error", pyright), pyright
    assert {int(line) for line in re.findall(r"mistakes.py:(\d+):\d+ - error", pyright)} == calls(MISTAKES), pyright


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of mypy, which also reads types from libraries that do not declare them."""
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(f"[mypy]\nfollow_untyped_imports = true\ncache_dir = {folder / 'cache'}\n")
    return told_by([sys.executable, "-m", "mypy"], folder)


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of pyright, if installed."""
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    folder = tmp_path_factory.mktemp("pyright")
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    return told_by([sys.executable, "-m", "pyright", "--pythonpath", sys.executable], folder)


def told_by(checker: list[str], folder: Path) -> str:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "mistakes.py").write_text(MISTAKES)
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    command = [*checker, "program.py", "mistakes.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # it found the mistakes
    return done.stdout


def expected(program: str) -> dict[str, str]:
    lines = enumerate(program.splitlines(), 1)
    return {str(number): line.partition("  # ")[2] for number, line in lines if line.startswith("reveal_type")}


def calls(program: str) -> set[int]:
    return {number for number, line in enumerate(program.splitlines(), 1) if line.endswith(")")}


def without_modules(text: str) -> str:
    """A type as pyright prints it."""
    return re.sub(r"\b\w+\.", "", text)
