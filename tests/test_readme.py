"""The README's code runs, and prints what the README says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import recipes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:.* images are few for the statistics of norms")
def test_python_blocks_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order, in one namespace and one folder, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    ran = 0
    for (language, code), (next_language, expected) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        if next_language == "text":
            assert printed.getvalue().rstrip() == expected.rstrip()
        ran += 1
    assert ran >= 2


def test_first_block_shows_its_output() -> None:
    languages = [language for language, _ in BLOCKS]
    assert languages[:2] == ["python", "text"]


def test_two_commands_set_everything_up() -> None:
    """`.ci/run` takes its commands from the README by this pattern."""
    commands = re.findall(r'^pip install "\.\[[a-z]+\]" && .*$', README, flags=re.MULTILINE)
    assert commands == ['pip install ".[demo]" && surgery demo', 'pip install ".[test]" && pytest -n 2']
    assert r"""'^pip install "\.\[[a-z]+\]" && '""" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert len(targets) >= 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_recipe_named_is_one() -> None:
    """The table of families names recipes by their ends; the first of each family is whole."""
    table = README[README.index("| family | recipes |") :].partition("\n\n")[0]
    whole = [name for name in re.findall(r"`([a-z0-9]+-[a-z0-9-]+[a-z0-9])`", table)]
    assert len(whole) >= 12 and set(whole) <= set(recipes.names())
