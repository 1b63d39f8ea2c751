"""The page: its tables are current, and all its links exist."""

import re
from pathlib import Path

import pytest

from benchmarks.page import PAGE, filled

TABLES = """# Results

| arm | accuracy |
| --- | ---: |
| one | 91.00 |
| two | 92.00 |

| way | form | ratio |
| --- | ---: | ---: |
| PWLU | fused | 1.4 |
| PWLU | closed | 20 |
"""


def test_tables_of_the_page_are_those_of_the_results() -> None:
    """If this fails, run `python -m benchmarks.page`."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") >= 5
    assert filled(text, PAGE.parent) == text


def test_links_and_pictures_of_the_page_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert len(targets) >= 10
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []


def test_a_place_is_filled_anew(tmp_path: Path) -> None:
    (tmp_path / "results.md").write_text(TABLES, encoding="utf-8")
    text = (
        "before\n<!-- table: results.md -->\nold\n<!-- end -->\nbetween\n"
        "<!-- table: results.md 2 fused -->\n<!-- end -->\n"
    )
    once = filled(text, tmp_path)
    assert once == (
        "before\n<!-- table: results.md -->\n| arm | accuracy |\n| --- | ---: |\n| one | 91.00 |\n| two | 92.00 |\n"
        "<!-- end -->\nbetween\n<!-- table: results.md 2 fused -->\n| way | form | ratio |\n| --- | ---: | ---: |\n"
        "| PWLU | fused | 1.4 |\n<!-- end -->\n"
    )
    assert filled(once, tmp_path) == once


@pytest.mark.parametrize(("place", "problem"), [("results.md 3", "2 tables"), ("results.md 2 eager", "no row with")])
def test_what_is_not_there_is_told(tmp_path: Path, place: str, problem: str) -> None:
    (tmp_path / "results.md").write_text(TABLES, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        filled(f"<!-- table: {place} -->\n<!-- end -->\n", tmp_path)
