"""The names that an editor lists after `surgery.`, `pruning.` and `recipes.`: all that a user needs, and no more."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

import pruning
import recipes
import surgery

PACKAGES = [surgery, surgery.activations, surgery.deploy, pruning, pruning.hosts, recipes]
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("package", PACKAGES, ids=lambda case: case.__name__)
def test_the_names_listed_are_those_of_the_package(package: ModuleType) -> None:
    assert dir(package) == sorted(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_every_part_of_recipes_is_made_when_it_is_asked_for() -> None:
    namespace: dict[str, object] = {}
    exec("from recipes import *", namespace)
    assert set(recipes.__all__) <= set(namespace)
    assert namespace["data"] is recipes.data
    assert recipes.load("resnet-erase-last").name == "resnet-erase-last"
    with pytest.raises(AttributeError, match="module 'recipes' has no attribute 'lode'"):
        recipes.lode  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        installed = version(project["name"])
    except PackageNotFoundError:
        installed = "0+unknown"  # a checkout that was never installed
    assert surgery.__version__ == installed
