"""The code of the README runs and prints what the README shows."""

import re
from pathlib import Path

import pytest

import recipes
from recipes.runs.outcome import Outcome
from tests.pages import blocks, run_python_blocks

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")
def test_python_blocks_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(ROOT / "README.md", tmp_path) >= 2
    outcome = Outcome.from_json((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert outcome.after.accuracy > 0.9


def test_the_first_block_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(ROOT / "README.md", tmp_path, most=1) == 1


def test_first_block_shows_its_output() -> None:
    languages = [language for language, _ in blocks(ROOT / "README.md")]
    assert languages[:2] == ["python", "text"]


def test_two_commands_set_everything_up() -> None:
    """`.ci/run` takes its commands from the README by this pattern."""
    commands = re.findall(r'^pip install "\.\[[a-z]+\]" && .*$', README, flags=re.MULTILINE)
    assert commands == ['pip install ".[demo]" && surgery demo', 'pip install ".[test]" && pytest -n 2']
    assert r"""'^pip install "\.\[[a-z]+\]" && '""" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 15
    assert [link for link in links if not leads_somewhere(link)] == []


def leads_somewhere(link: str) -> bool:
    """A file or a folder of the repository; behind a # a heading there, in GitHub's spelling."""
    target, _, anchor = link.partition("#")
    page = ROOT / (target or "README.md")
    if not anchor:
        return page.exists()
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_recipe_named_is_one() -> None:
    named = set(re.findall(r'recipes\.load\("([^"]+)"\)|surgery run ([\w-]+)', README))
    assert len(named) >= 2 and {name for pair in named for name in pair if name} <= set(recipes.names())
