"""The wheel: the three packages and nothing else, with the declared names and requirements."""

import ast
import email
import email.message
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("surgery", "pruning", "recipes")
INFO = "activation_surgery-0.1.0.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built from a copy without the network."""
    folder = tmp_path_factory.mktemp("build")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = (folder / "dist").iterdir()
    assert path.name == "activation_surgery-0.1.0-py3-none-any.whl"
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_three_packages_whole(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {name for name in wheel.namelist() if not name.startswith(INFO)} == sources
    assert {f"{package}/py.typed" for package in PACKAGES} <= sources
    assert f"{INFO}/licenses/LICENSE" in wheel.namelist()


def test_every_folder_of_sources_is_a_package(wheel: zipfile.ZipFile) -> None:
    folders = {name.rpartition("/")[0] for name in wheel.namelist() if name.endswith(".py")}
    assert [folder for folder in sorted(folders) if f"{folder}/__init__.py" not in wheel.namelist()] == []


def test_metadata(wheel: zipfile.ZipFile) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("activation-surgery", "0.1.0", ">=3.11")
    assert said["License-Expression"] == "Apache-2.0"
    assert set(said.get_all("Provides-Extra", [])) == {
        "demo", "plot", "tensorboard", "wandb", "fast", "search", "nncf", "foreign", "test", "docs", "dev",
        "deploy-onnx", "deploy-openvino", "deploy-ncnn", "deploy-litert", "deploy-coreml", "deploy-executorch",
        "deploy-tvm",
    }  # fmt: skip


def test_requirements_are_the_agreed_ones(wheel: zipfile.ZipFile) -> None:
    lines = [line for line in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.sub(r"\s", "", line) for line in lines} == {
        "torch>=2.11",
        "torchvision",
        "timm>=1.0.23",
        "torch-pruning",
        "numpy",
        "regex",
        "safetensors",
        "pillow",
        "tqdm",
        "huggingface-hub",
    }


def test_the_console_script_exists(wheel: zipfile.ZipFile) -> None:
    assert wheel.read(f"{INFO}/entry_points.txt").decode().split() == [
        "[console_scripts]",
        "surgery",
        "=",
        "recipes.cli:main",
    ]
    functions = [
        node.name for node in ast.parse(wheel.read("recipes/cli/__init__.py")).body if isinstance(node, ast.FunctionDef)
    ]
    assert "main" in functions


def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    return email.message_from_bytes(wheel.read(f"{INFO}/METADATA"))
