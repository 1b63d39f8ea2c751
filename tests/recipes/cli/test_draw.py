"""Draw on the command line: a model, a model before and after rules, two models."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import cli
from tests.recipes.cli.commands import ERASE, SMALL, refused
from tests.surgery.drawing.reading import Element, read


def drawn(tmp_path: Path, *words: str) -> Element:
    """The page that a command writes."""
    file = tmp_path / "net.html"
    assert cli.main(["draw", *words, "--output", str(file)]) == 0
    return read(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "title", "lead"),
    [
        ((), "timm/test_resnet", "12 activation calls in 4 blocks"),
        (ERASE, "timm/test_resnet", "12 activation calls in 4 blocks: 8 kept, 4 erased"),
        (("--after", "timm/test_resnet"), "timm/test_resnet and timm/test_resnet",
         "12 activation calls in 4 blocks: 12 kept"),
    ],
)  # fmt: skip
def test_a_page_is_drawn(
    words: tuple[str, ...], title: str, lead: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = drawn(tmp_path, *SMALL, *words)
    assert (root.one(tag="h1").text, root.one(kind="lead").text) == (title, lead)
    assert capsys.readouterr().out == f"drawn in {tmp_path / 'net.html'}\n"


def test_a_saved_model_is_drawn_as_it_was_and_as_it_is(tmp_path: Path) -> None:
    assert cli.main(["transform", *SMALL, *ERASE, "--save", str(tmp_path / "out")]) == 0
    root = drawn(tmp_path, str(tmp_path / "out"), *SMALL[1:])
    assert root.one(kind="lead").text == "12 activation calls in 4 blocks: 8 kept, 4 erased"


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "drawn as HTML" in refused(capsys, "draw", *SMALL, "--output", str(tmp_path / "net.png"))
    both = ("--after", "timm/test_resnet")
    assert "Either rules or another model" in refused(capsys, "draw", *SMALL, *ERASE, *both)
