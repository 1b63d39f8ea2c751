"""The pages in docs: their code runs and prints what they show, and the reference lists every public name."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

import pruning
import recipes
import surgery
from recipes.cli import _parser
from tests.pages import blocks, run_python_blocks

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXECUTED = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]


SLOW = {"choosing", "deploying", "detector_backbone", "merging", "torch_pruning"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [], id=page.stem) for page in EXECUTED],
)
def test_python_blocks_print_what_they_say(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(page, tmp_path) >= 1


COMMANDS = sorted(
    {
        line.partition(" > ")[0]
        for page in [ROOT / "README.md", ROOT / "recipes" / "README.md", *PAGES]
        for language, text in blocks(page)
        if language == "sh"
        for line in text.splitlines()
        if line.startswith("surgery ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    asked = shlex.split(command, comments=True)[1:]
    assert _parser().parse_args(asked).command == asked[0]


def test_every_tutorial_is_executed() -> None:
    tutorials = {page.stem for page in EXECUTED if page.parent.name == "tutorials"}
    assert tutorials == {page.stem for page in (DOCS / "tutorials").iterdir()} and len(tutorials) >= 3


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^[\w/]+$", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(listed) | {"index"} == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}


PACKAGES = [surgery, surgery.activations, surgery.deploy, pruning, recipes]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda case: case.__name__)
def test_the_reference_holds_every_public_name(package: object) -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").iterdir())
    documented = set(re.findall(r"^\.\. auto(?:function|class|exception):: ([\w.]+)$", reference, flags=re.MULTILINE))
    public = {name for name in dir(package) if not name.startswith("_") and is_ours(getattr(package, name))}
    assert len(public) >= 6
    assert {f"{package.__name__}.{name}" for name in public} <= documented


def is_ours(value: object) -> bool:
    home = getattr(value, "__module__", "").partition(".")[0]
    return not inspect.ismodule(value) and home in {"surgery", "pruning", "recipes"}
