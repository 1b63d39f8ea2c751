"""Markdown pages with Python code: all blocks of a page run in order, as a reader would run them."""

import contextlib
import io
import re
from pathlib import Path


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run_python_blocks(page: Path, folder: Path, most: int | None = None) -> int:
    """Run them in one namespace, or only the first ones; a block of `text` is what the one before it prints.

    Returns how many ran. Each is a file in `folder`: methods that are defined there have a source, which surgery reads.
    """
    names: dict[str, object] = {"__name__": page.stem}
    ran = 0
    languages = blocks(page)
    for (language, code), (next_language, expected) in zip(languages, [*languages[1:], ("", "")], strict=True):
        if language != "python" or ran == most:
            continue
        file = folder / f"{page.stem}_{ran}.py"
        file.write_text(code, encoding="utf-8")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(file), "exec"), names)
        if next_language == "text":
            printed_lines = without_trailing_blanks(printed.getvalue())
            assert printed_lines == without_trailing_blanks(expected), f"{page.name} prints something else:\n{code}"
        ran += 1
    return ran


def without_trailing_blanks(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
